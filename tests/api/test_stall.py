"""A stream that gets nowhere ends, one that is read slowly does not."""

import asyncio

import pytest

from muster.api.stall import StallTimer
from muster.errors import PoolUnavailable


def test_a_wait_that_takes_too_long_ends_and_the_waits_before_it_do_not_count() -> None:
    async def stream() -> list[str]:
        got = []
        async with StallTimer(0.2) as stall:
            for delay_s in (0.0, 0.12, 0.12, 60.0):
                got.append(str(delay_s))
                await stall.wait(asyncio.sleep(delay_s))
        return got

    async def timed() -> None:
        async with asyncio.timeout(30):
            await stream()

    with pytest.raises(PoolUnavailable, match="no progress"):
        asyncio.run(timed())


def test_what_is_done_between_two_waits_may_take_as_long_as_it_likes() -> None:
    async def stream() -> str:
        async with StallTimer(0.05) as stall:
            await stall.wait(asyncio.sleep(0))
            await asyncio.sleep(0.2)  # as a client that does not read makes it
            await stall.wait(asyncio.sleep(0))
        return "whole"

    assert asyncio.run(stream()) == "whole"


def test_a_cancelled_stream_is_cancelled_and_not_late() -> None:
    async def stream() -> None:
        async with StallTimer(60) as stall:
            await stall.wait(asyncio.sleep(60))

    async def cancelled() -> None:
        task = asyncio.create_task(stream())
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
