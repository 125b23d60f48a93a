"""One QUIC connection by iroh, and its streams as named channels. Knows nothing of dialling or of what frames mean.

Every connection has a pulse: QUIC's own idle timeout is half a minute and the binding does not expose it, so a peer
from which nothing came for `MISSED_PULSES` times `PULSE_S` is given up. A pulse is one datagram, sent only into
silence and acknowledged by the peer's QUIC stack, so a peer whose Python is busy counts as alive.
"""

from asyncio import Event, Queue, Task, create_task, current_task, gather, shield, sleep, timeout, wait
from collections.abc import Awaitable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, TypeVar
from weakref import WeakSet

from iroh.iroh_ffi import IrohError

from muster.errors import LinkDown, ProtocolViolation
from muster.link.base import link_down
from muster.link.iroh_stripes import (
    MAX_STRIPES,
    STRIPED,
    TOKEN_BYTES,
    Dial,
    Meetings,
    dial_further,
    further_connections,
    new_token,
    open_further,
)
from muster.link.stream import LINGER_S, StreamChannel
from muster.link.stripes import StripedStream
from muster.spec.pool import NodeId
from muster.wire.frame import CHANNEL_LIMITS, Payload

PULSE_S = 0.6
MISSED_PULSES = 4

MAX_CHANNELS = 256
"""Open at once on one connection, from one side."""

_NAME_TIMEOUT_S = 5.0
_MAX_NAME_BYTES = 16
_STRIPED_MARK = b"*"
"""After the name of a channel that has streams on further connections; a token and their number follow."""
_SMALL_BYTES = 64 * 1024
_PIECE_BYTES = 1024 * 1024
_PRIORITY = {"control": 3, "data": 2, "proof": 1, "relay": 1, "bulk": 0}

_T = TypeVar("_T")


class IrohConnection:
    """Implements `Connection`."""

    def __init__(
        self,
        connection: Any,
        siblings: "set[IrohConnection]",
        meetings: Meetings,
        source: str = "",
        dial_again: Dial | None = None,
    ) -> None:
        """`dial_again` makes a further connection to the peer; None where the peer dialled."""
        self._connection = connection
        self._meetings = meetings
        self._dial_again = dial_again
        self._further: list[Any] = []
        """Connections beside this one."""
        self._widening: Task[None] | None = None
        self._source = source
        self._siblings = siblings
        self._peer: NodeId = str(connection.remote_id())
        self._closed = Event()
        self._reason = ""
        self._accepted: Queue[tuple[str, StreamChannel] | None] = Queue()
        self._channels: WeakSet[StreamChannel] = WeakSet()
        self._lingering: set[Task[None]] = set()
        """Streams whose last bytes are on their way, or that are being torn down."""
        connection.set_max_concurrent_bi_streams(MAX_CHANNELS)
        work = (self._accept_forever(), self._watch_end(), self._pulse(), self._drain_pulses())
        self._tasks = [create_task(each) for each in work]

    @property
    def peer(self) -> NodeId:
        return self._peer

    @property
    def source(self) -> str:
        return self._source

    @property
    def closed(self) -> Event:
        return self._closed

    async def open(self, name: str) -> StreamChannel:
        if name not in CHANNEL_LIMITS:
            raise ProtocolViolation(f"There is no channel {name!r}; choose one of {', '.join(CHANNEL_LIMITS)}.")
        if name in STRIPED:
            await self._widen()
        stream = await self.reach(self._connection.open_bi())
        send = stream.send()
        if name in STRIPED and self._further:
            return await self.reach(self._open_striped(name, send, stream.recv()))
        # The peer hears of a stream only when bytes come; the name is what it needs first anyway.
        await self.reach(send.write_all(bytes([len(name)]) + name.encode()))
        return await self.reach(self._channel(name, (send, stream.recv())))

    async def accept(self) -> tuple[str, StreamChannel]:
        opened = await self._accepted.get()
        if opened is None:
            self._accepted.put_nowait(None)  # for the next one who waits
            raise self.down()
        return opened

    async def close(self, reason: str = "") -> None:
        await gather(*(channel.close() for channel in list(self._channels)))
        if self._lingering:
            await wait(self._lingering, timeout=LINGER_S)
        self._lost("closed by this node", reason)
        left = [*self._tasks, *self._lingering]
        for task in left:
            task.cancel()
        await gather(*left, return_exceptions=True)

    def round_trip_s(self) -> float | None:
        milliseconds = self._connection.rtt()
        return None if milliseconds is None else milliseconds / 1000

    def down(self) -> LinkDown:
        return link_down(self._peer, self._reason or self._connection.close_reason() or "closed by the peer")

    async def reach(self, call: Awaitable[_T]) -> _T:
        """The call's result; its failure is a `LinkDown`."""
        try:
            return await call
        except IrohError:
            raise self.down() from None

    def linger(self, work: Coroutine[Any, Any, None]) -> None:
        """Let `work` on a stream that nobody holds any more go on until the connection closes."""
        task = create_task(work)
        self._lingering.add(task)
        task.add_done_callback(self._lingering.discard)

    def attach(self, connection: Any) -> None:
        """One more connection to the same peer, for channels that carry much."""
        if len(self._further) >= MAX_STRIPES or self._closed.is_set():
            connection.close(0, b"no more are needed")
            return
        self._further.append(connection)
        connection.set_max_concurrent_bi_streams(MAX_CHANNELS)
        self._tasks.append(create_task(self._keep(connection)))

    async def _keep(self, connection: Any) -> None:
        await self._meetings.serve(self._peer, connection)
        if connection in self._further:
            self._further.remove(connection)

    async def _widen(self) -> None:
        """More connections to a far peer, once, from whoever dialled."""
        if self._widening is None and self._dial_again is not None:
            self._widening = create_task(self._dial_more(self._dial_again))
            self._tasks.append(self._widening)
        if self._widening is not None:
            await shield(self._widening)  # who opens a channel may give up; the next one finds what was dialled

    async def _dial_more(self, dial: Dial) -> None:
        addresses = [path.remote_addr for path in self._connection.paths() if path.is_ip]
        for connection in await dial_further(dial, further_connections(self.round_trip_s(), addresses)):
            self.attach(connection)

    async def _open_striped(self, name: str, send: Any, recv: Any) -> StreamChannel:
        further, token = list(self._further), new_token()
        await send.write_all(bytes([len(name) + 1]) + name.encode() + _STRIPED_MARK + token + bytes([len(further)]))
        return await self._channel(name, (send, recv), *await open_further(further, token))

    async def _channel(self, name: str, *streams: tuple[Any, Any]) -> StreamChannel:
        for send, _ in streams:
            await send.set_priority(_PRIORITY[name])
        parts = [_IrohStream(self, send, recv) for send, recv in streams]
        channel = StreamChannel(parts[0] if len(parts) == 1 else StripedStream(parts), self._peer, name)
        self._channels.add(channel)
        return channel

    async def _accept_forever(self) -> None:
        with suppress(IrohError):  # the connection is gone; `_watch_end` says why
            while True:
                stream = await self._connection.accept_bi()
                with suppress(IrohError, TimeoutError):  # this stream is gone
                    await self._accept_stream(stream.send(), stream.recv())

    async def _accept_stream(self, send: Any, recv: Any) -> None:
        async with timeout(_NAME_TIMEOUT_S):
            name = await _read_name(recv)
            if name in CHANNEL_LIMITS:
                self._accepted.put_nowait((name, await self._channel(name, (send, recv))))
            elif name[-1:].encode() == _STRIPED_MARK and name[:-1] in STRIPED:
                token, (count,) = await recv.read_exact(TOKEN_BYTES), await recv.read_exact(1)
                self.linger(self._accept_striped(name[:-1], (send, recv), bytes(token), min(count, MAX_STRIPES)))
            else:
                await send.reset(1)
                await recv.stop(1)

    async def _accept_striped(self, name: str, first: tuple[Any, Any], token: bytes, count: int) -> None:
        """Where its other streams do not come, the channel is given up as one that its opener has lost."""
        with suppress(IrohError, TimeoutError):
            others = await self._meetings.meet(self._peer, token, count)
            self._accepted.put_nowait((name, await self._channel(name, first, *others)))
            return
        with suppress(IrohError):
            await first[0].reset(1)
            await first[1].stop(1)

    async def _watch_end(self) -> None:
        self._lost(await self._connection.closed())

    async def _pulse(self) -> None:
        seen, missed = -1, 0
        while missed < MISSED_PULSES:
            await sleep(PULSE_S)
            received = self._connection.stats().udp_rx_datagrams
            missed = missed + 1 if received == seen else 0
            seen = received
            if missed:
                with suppress(IrohError):
                    self._connection.send_datagram(b"\\0")
        self._lost(f"no sign of life for {MISSED_PULSES * PULSE_S:.1f} s")

    async def _drain_pulses(self) -> None:
        with suppress(IrohError):
            while True:
                await self._connection.read_datagram()

    def _lost(self, reason: str, told: str = "") -> None:
        if self._closed.is_set():
            return
        self._reason = reason
        self._closed.set()
        self._accepted.put_nowait(None)
        self._siblings.discard(self)
        for connection in (self._connection, *self._further):
            connection.close(0, told.encode()[:200])
        for task in self._tasks:
            if task is not current_task():
                task.cancel()


class _IrohStream:
    """Implements `ByteStream`."""

    def __init__(self, connection: IrohConnection, send: Any, recv: Any) -> None:
        self._connection = connection
        self._send = send
        self._recv = recv

    async def write(self, buffers: Sequence[Payload]) -> None:
        if sum(len(buffer) for buffer in buffers) <= _SMALL_BYTES:
            buffers = [b"".join(buffers)]  # a call across the binding costs more than this copy
        for buffer in buffers:
            view = memoryview(buffer)
            for start in range(0, len(view), _PIECE_BYTES):
                await self._connection.reach(self._send.write_all(view[start : start + _PIECE_BYTES]))

    async def read(self, wanted: int) -> bytes:
        size = min(max(wanted, _SMALL_BYTES), _PIECE_BYTES)
        data: bytes = await self._connection.reach(self._recv.read(size))
        return data

    async def finish(self) -> None:
        await self._connection.reach(self._send.finish())
        self._connection.linger(self._settle())

    def abort(self) -> None:
        self._connection.linger(self._tear_down())

    async def _settle(self) -> None:
        with suppress(IrohError):
            await self._recv.stop(0)
        with suppress(IrohError):
            await self._send.stopped()  # returns once the peer's machine has every byte

    async def _tear_down(self) -> None:
        with suppress(IrohError):
            await self._send.reset(1)
        with suppress(IrohError):
            await self._recv.stop(1)


async def _read_name(recv: Any) -> str:
    (length,) = await recv.read_exact(1)
    if not 0 < length <= _MAX_NAME_BYTES:
        return ""
    name: bytes = await recv.read_exact(length)
    return name.decode("ascii", errors="replace")
