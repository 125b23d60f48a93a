"""One stream of bytes over several: each has a congestion control of its own, so together they fill a far, lossy link.

QUIC's congestion control takes every loss for a full link and halves what it sends; at 200 ms and one lost packet in a
thousand a connection alone gets a few Mbit/s of any link. Of thirty, a loss slows one. Blocks go to the stripe with the
least under way, so a slow one gets few; the other end says of each block that it has come, and puts them in order.

    block   0, its number, its length, its bytes        end   2, its number, 0        came   1, its number, 0

Knows nothing of what carries a stripe. What is held for order is bounded at both ends by `MAX_SPAN_BLOCKS`.
"""

from asyncio import Lock, Task, create_task, gather
from collections import deque
from collections.abc import Iterator, Sequence
from struct import Struct

from muster.errors import LinkDown, ProtocolViolation
from muster.link.change import Change
from muster.link.stream import ByteStream
from muster.wire.frame import Payload

BLOCK_BYTES = 32 * 1024
WINDOW_BLOCKS = 4
"""Under way on one stripe, 128 KiB: what it needs for its part of 100 Mbit/s at 200 ms, and twice that. More would
only wait for a stripe that has lost something, and all that follows would wait with it."""
MAX_SPAN_BLOCKS = 512
"""From the first block that has not come to the last that was sent."""
MAX_READY_BYTES = 4 * 1024 * 1024
"""In order, and not read yet: while there is more, no stripe is read."""
_HEADER = Struct(">BII")
_BLOCK, _CAME, _END = 0, 1, 2


class StripedStream:
    """Implements `ByteStream`. Both ends are given the same number of stripes; which is which does not matter."""

    def __init__(self, stripes: Sequence[ByteStream]) -> None:
        self._stripes = [_Stripe(stripe) for stripe in stripes]
        self._change = Change()
        self._next = 0
        """Number of the next block that is sent."""
        self._under_way: dict[int, _Stripe] = {}
        """By number, in the order in which they were sent."""
        self._expected = 0
        self._early: dict[int, bytes] = {}
        self._ready: deque[bytes] = deque()
        self._ready_bytes = 0
        self._last = -1
        """Number of the block that ends the stream, once it is known."""
        self._ended = False
        self._error: LinkDown | ProtocolViolation | None = None
        self._readers: list[Task[None]] = [create_task(self._follow(stripe)) for stripe in self._stripes]

    async def write(self, buffers: Sequence[Payload]) -> None:
        for block in _blocks(buffers):
            await self._send(_BLOCK, block)

    async def read(self, wanted: int) -> Payload:
        while not self._ready:
            if self._error is not None:
                raise self._error
            if self._ended:
                return b""
            await self._change.wait()
        data = b"".join(self._ready)
        self._ready.clear()
        self._ready_bytes = 0
        self._change.tell()
        return data

    async def finish(self) -> None:
        await self._send(_END, b"")
        self._stop_reading()
        await gather(*(stripe.stream.finish() for stripe in self._stripes))

    def abort(self) -> None:
        self._stop_reading()
        for stripe in self._stripes:
            stripe.stream.abort()

    def _stop_reading(self) -> None:
        for reader in self._readers:
            reader.cancel()

    async def _send(self, kind: int, block: bytes) -> None:
        while (stripe := self._free()) is None:
            if self._error is not None:
                raise self._error
            await self._change.wait()
        number, self._next = self._next, self._next + 1
        self._under_way[number] = stripe
        stripe.under_way += 1
        await stripe.write(_HEADER.pack(kind, number, len(block)) + block)

    def _free(self) -> "_Stripe | None":
        """Where the next block may go now."""
        first = next(iter(self._under_way), self._next)
        if self._error is not None or self._next - first >= MAX_SPAN_BLOCKS:
            return None
        best = min(self._stripes, key=lambda stripe: stripe.under_way)
        return best if best.under_way < WINDOW_BLOCKS else None

    async def _follow(self, stripe: "_Stripe") -> None:
        """Take what comes on a stripe, until it ends."""
        try:
            while (header := await stripe.read_exactly(_HEADER.size)) is not None:
                kind, number, length = _HEADER.unpack(header)
                if kind == _CAME:
                    self._came(number)
                    continue
                if kind not in (_BLOCK, _END) or length > BLOCK_BYTES:
                    raise ProtocolViolation("A peer sent what is no block of a striped channel; update both ends.")
                block = await stripe.read_exactly(length)
                if block is None:
                    raise LinkDown("The peer ended a stripe in the middle of a block; dial it again.")
                self._take(number, block if kind == _BLOCK else None)
                await stripe.write(_HEADER.pack(_CAME, number, 0))
                while self._ready_bytes > MAX_READY_BYTES:
                    await self._change.wait()
        except (LinkDown, ProtocolViolation) as error:
            if not self._ended:
                self._error = self._error or error
        self._change.tell()

    def _came(self, number: int) -> None:
        stripe = self._under_way.pop(number, None)
        if stripe is None:
            raise ProtocolViolation(f"A peer says that block {number} came, which is not under way; update both ends.")
        stripe.under_way -= 1
        self._change.tell()

    def _take(self, number: int, block: bytes | None) -> None:
        if not self._expected <= number < self._expected + MAX_SPAN_BLOCKS or number in self._early:
            raise ProtocolViolation(f"A peer sent block {number} twice or far too early; update both ends.")
        self._early[number] = b"" if block is None else block
        if block is None:
            self._last = number
        while (ready := self._early.pop(self._expected, None)) is not None:
            self._ended = self._ended or self._expected == self._last
            self._expected += 1
            if ready:
                self._ready.append(ready)
                self._ready_bytes += len(ready)
        self._change.tell()


class _Stripe:
    def __init__(self, stream: ByteStream) -> None:
        self.stream = stream
        self.under_way = 0
        self._buffer = bytearray()
        self._lock = Lock()

    async def write(self, data: bytes) -> None:
        async with self._lock:
            await self.stream.write([data])

    async def read_exactly(self, size: int) -> bytes | None:
        """None if the stripe ends before."""
        while len(self._buffer) < size:
            if not (data := await self.stream.read(size - len(self._buffer))):
                return None
            self._buffer += data
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken


def _blocks(buffers: Sequence[Payload]) -> Iterator[bytes]:
    """All bytes, in blocks that are full but for the last."""
    gathered = bytearray()
    for buffer in buffers:
        view = memoryview(buffer).cast("B") if not isinstance(buffer, bytes) else memoryview(buffer)
        start = 0
        while start < len(view):
            room = BLOCK_BYTES - len(gathered)
            gathered += view[start : start + room]
            start += room
            if len(gathered) == BLOCK_BYTES:
                yield bytes(gathered)
                gathered.clear()
    if gathered:
        yield bytes(gathered)
