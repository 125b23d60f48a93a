"""A channel over any ordered stream of bytes. Knows frames and closing; knows nothing of what carries the bytes.

Reads and writes run in tasks of their own that a cancelled caller leaves alone, so `wait_for(channel.receive(), …)`
neither loses bytes nor leaves half a frame on the wire.
"""

from asyncio import CancelledError, Lock, Task, create_task, current_task, shield, timeout
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from muster.errors import LinkDown, ProtocolViolation
from muster.link.base import link_down
from muster.spec.pool import NodeId
from muster.wire.frame import CHANNEL_LIMITS, Frame, FrameDecoder, Payload, encode
from muster.wire.messages.every import AnyMessage

LINGER_S = 1.0
"""How long `close` waits for a peer that does not read what was sent before."""


class ByteStream(Protocol):
    """Bytes in both directions. Every method but `abort` raises `LinkDown` once the stream is broken."""

    async def write(self, buffers: Sequence[Payload]) -> None:
        """All of them, waiting while the peer is slower."""

    async def read(self, wanted: int) -> Payload:
        """Some bytes, at least one; none means that the peer finished. `wanted` is a hint."""

    async def finish(self) -> None:
        """What was written still arrives; nothing more is written or read."""

    def abort(self) -> None:
        """Drop everything at once."""


class StreamChannel:
    """Implements `Channel`."""

    def __init__(self, stream: ByteStream, peer: NodeId, name: str) -> None:
        self._stream = stream
        self._peer = peer
        self._limits = CHANNEL_LIMITS[name]
        self._decoder = FrameDecoder(self._limits)
        self._frames: deque[Frame] = deque()
        self._write_lock = Lock()
        self._reading: Task[Payload] | None = None
        self._writing: set[Task[None]] = set()
        self._end: LinkDown | ProtocolViolation | None = None

    async def send(self, message: AnyMessage, payload: Payload = b"") -> None:
        buffers = encode(message, payload, self._limits)
        task = create_task(self._write(buffers))
        self._writing.add(task)
        task.add_done_callback(self._written)
        await shield(task)

    async def receive(self) -> Frame:
        while not self._frames:
            try:
                self._decoder.check()
                self._take(await self._read())
            except (LinkDown, ProtocolViolation) as error:
                self._fail(error)
                raise
        return self._frames.popleft()

    async def close(self) -> None:
        if self._end is not None:
            return
        self._end = link_down(self._peer, "closed by this node")
        if self._reading is not None:
            self._reading.cancel()
        try:
            async with timeout(LINGER_S), self._write_lock:  # a frame that is being written goes out whole
                await self._stream.finish()
        except (LinkDown, TimeoutError):
            self._stream.abort()

    async def _write(self, buffers: Sequence[Payload]) -> None:
        async with self._write_lock:
            if self._end is not None:
                raise link_down(self._peer, "closed")
            await self._stream.write(buffers)

    def _written(self, task: Task[None]) -> None:
        self._writing.discard(task)
        if not task.cancelled():
            task.exception()  # the sender may have been cancelled and gone; asyncio would complain in its place

    async def _read(self) -> Payload:
        if self._end is not None:
            raise self._end
        if self._reading is None:
            self._reading = create_task(self._read_stream())
        try:
            data = await shield(self._reading)
        except CancelledError:
            if self._end is None or _caller_is_cancelled():
                raise  # the read goes on, and may even be done: the next `receive` takes its bytes
            raise self._end from None  # `close` cancelled the read, not our caller
        self._reading = None
        return data

    async def _read_stream(self) -> Payload:
        return await self._stream.read(self._decoder.missing)

    def _take(self, data: Payload) -> None:
        if not data:
            self._decoder.finish()
            raise link_down(self._peer, "closed by the peer")
        self._frames.extend(self._decoder.feed(data))

    def _fail(self, error: LinkDown | ProtocolViolation) -> None:
        if self._end is None:
            self._end = error
            self._stream.abort()


def _caller_is_cancelled() -> bool:
    task = current_task()
    return task is not None and task.cancelling() > 0
