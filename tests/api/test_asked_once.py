"""Many who ask the same at once cost two questions, and nobody gets an answer from before."""

import asyncio
import threading

import pytest

from muster.api.asked_once import AskedOnce


def test_whoever_asks_while_a_question_is_under_way_shares_the_next_one() -> None:
    asked, go = [], threading.Event()

    def ask() -> int:
        asked.append(len(asked))
        go.wait(10)
        return asked[-1]

    async def ask_all() -> list[int]:
        once = AskedOnce(ask)
        first = asyncio.create_task(once())
        while not asked:
            await asyncio.sleep(0.001)
        rest = [asyncio.create_task(once()) for _ in range(64)]
        await asyncio.sleep(0.01)
        go.set()
        return await asyncio.gather(first, *rest)

    assert asyncio.run(ask_all()) == [0] + 64 * [1]
    assert len(asked) == 2


def test_every_later_question_is_put_anew_and_one_who_leaves_takes_nothing_from_the_others() -> None:
    answers = iter([False, True])
    go = threading.Event()

    def ask() -> bool:
        go.wait(10)
        return next(answers)

    async def ask_twice() -> tuple[bool, bool]:
        once = AskedOnce(ask)
        leaves, stays = asyncio.create_task(once()), asyncio.create_task(once())
        await asyncio.sleep(0.01)
        leaves.cancel()
        go.set()
        return await stays, await once()

    assert asyncio.run(ask_twice()) == (False, True)


def test_everybody_hears_of_a_question_that_fails() -> None:
    def ask() -> bool:
        raise OSError("no disk")

    async def ask_all() -> None:
        once = AskedOnce(ask)
        for answer in await asyncio.gather(once(), once(), return_exceptions=True):
            assert isinstance(answer, OSError)
        with pytest.raises(OSError, match="no disk"):
            await once()

    asyncio.run(ask_all())
