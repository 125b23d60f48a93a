"""One stream over several: whole and in order, whatever each of them does to time."""

import asyncio
from collections import deque
from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.errors import LinkDown, MusterError, ProtocolViolation
from muster.link.stripes import BLOCK_BYTES, MAX_SPAN_BLOCKS, WINDOW_BLOCKS, StripedStream
from muster.wire.frame import Payload


class Pipe:
    """One end of a stream in memory; what is written arrives after a few turns of the loop, drawn from `random`."""

    def __init__(self, random: Random) -> None:
        self.other: Pipe = self
        self.written = 0
        self._random = random
        self._arrived: deque[bytes] = deque()
        self._news = asyncio.Event()
        self._broken = False

    async def write(self, buffers: Sequence[Payload]) -> None:
        for _ in range(self._random.randrange(4)):
            await asyncio.sleep(0)
        if self._broken:
            raise LinkDown("The link is down; dial again.")
        data = b"".join(buffers)
        self.written += len(data)
        self.other._put(data)

    async def read(self, wanted: int) -> Payload:
        while not self._arrived:
            if self._broken:
                raise LinkDown("The link is down; dial again.")
            self._news.clear()
            await self._news.wait()
        return self._arrived.popleft()

    async def finish(self) -> None:
        self.other._put(b"")

    def abort(self) -> None:
        for end in (self, self.other):
            end._broken = True
            end._news.set()

    def _put(self, data: bytes) -> None:
        self._arrived.append(data)
        self._news.set()


def pipes(count: int, seed: int) -> tuple[list[Pipe], list[Pipe]]:
    random = Random(seed)
    near, far = [Pipe(random) for _ in range(count)], [Pipe(random) for _ in range(count)]
    for one, other in zip(near, far, strict=True):
        one.other, other.other = other, one
    return near, far


async def read_all(stream: StripedStream) -> bytes:
    read = bytearray()
    while data := await stream.read(1):
        read += data
    return bytes(read)


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(0, 2**32), st.lists(st.integers(0, 3 * BLOCK_BYTES), max_size=12))
def test_all_bytes_come_in_order_and_then_the_end(count: int, seed: int, sizes: list[int]) -> None:
    sent = [Random(seed + number).randbytes(size) for number, size in enumerate(sizes)]

    async def scene() -> bytes:
        near, far = pipes(count, seed)
        one, other = StripedStream(near), StripedStream(far)
        reading = asyncio.create_task(read_all(other))
        for data in sent:
            await one.write([data[:7], data[7:]])
        await one.finish()
        return await asyncio.wait_for(reading, 10)

    assert asyncio.run(scene()) == b"".join(sent)


def test_a_stripe_that_stands_still_holds_up_no_more_than_the_span_and_gets_no_more_than_its_window() -> None:
    async def scene() -> tuple[int, int]:
        near, far = pipes(4, 1)
        one, other = StripedStream(near), StripedStream(far)
        stuck, near[0].other = near[0], Pipe(Random(0))  # whatever is written there never comes
        writing = asyncio.create_task(one.write([bytes(4 * MAX_SPAN_BLOCKS * BLOCK_BYTES)]))
        _, waiting = await asyncio.wait([writing], timeout=1.0)
        writing.cancel()
        one.abort()
        other.abort()
        return len(waiting), stuck.written

    waiting, written = asyncio.run(scene())
    assert waiting
    assert written <= (WINDOW_BLOCKS + 1) * (BLOCK_BYTES + 9)


def test_a_lost_stripe_loses_the_stream_at_both_ends() -> None:
    async def scene() -> None:
        near, far = pipes(3, 2)
        one, other = StripedStream(near), StripedStream(far)
        near[1].abort()
        with pytest.raises(LinkDown):
            await asyncio.wait_for(other.read(1), 5)
        with pytest.raises(LinkDown):
            await asyncio.wait_for(one.write([bytes(100 * BLOCK_BYTES)]), 5)

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"\7" + bytes(8), "no block of a striped channel"),
        (b"\0" + bytes(4) + b"\xff" * 4, "no block of a striped channel"),
        (b"\1" + bytes(8), "block 0 came, which is not under way"),
        (b"\0\xff\xff\xff\xff" + bytes(4), "twice or far too early"),
        ((b"\0" + bytes(8)) * 2, "block 0 twice or far too early"),
    ],
)
def test_a_peer_that_talks_nonsense_is_refused(said: bytes, reason: str) -> None:
    async def scene() -> None:
        near, far = pipes(2, 3)
        stream = StripedStream(far)
        await near[0].write([said])
        with pytest.raises(MusterError, match=reason) as caught:
            await asyncio.wait_for(stream.read(1), 5)
        assert isinstance(caught.value, ProtocolViolation)
        stream.abort()

    asyncio.run(scene())
