"""Owners take turns at one thread."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event

import pytest

from muster.text.turns import OwnerTurns


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as thread:
        yield thread


def test_who_asks_for_little_does_not_wait_for_all_that_another_asked_before(thread: ThreadPoolExecutor) -> None:
    turns, go, done = OwnerTurns(thread), Event(), list[str]()
    turns.submit("first", lambda: go.wait(30))
    asked: list[Future[None]] = [turns.submit("much", lambda i=i: done.append(f"much {i}")) for i in range(5)]
    asked += [turns.submit("little", lambda: done.append("little"))]
    go.set()
    for future in asked:
        future.result(30)
    assert done == ["much 0", "little", "much 1", "much 2", "much 3", "much 4"]


def test_what_is_cancelled_takes_no_turn(thread: ThreadPoolExecutor) -> None:
    turns, go = OwnerTurns(thread), Event()
    turns.submit("a", lambda: go.wait(30))
    gone, other = turns.submit("a", lambda: 1 / 0), turns.submit("a", lambda: "done")
    assert gone.cancel()
    go.set()
    assert other.result(30) == "done"


def test_an_error_goes_to_whoever_asked_and_the_next_one_has_its_turn(thread: ThreadPoolExecutor) -> None:
    turns = OwnerTurns(thread)
    with pytest.raises(ZeroDivisionError):
        turns.submit("a", lambda: 1 / 0).result(30)
    assert turns.submit("a", lambda: 2).result(30) == 2


def test_all_that_waits_can_be_cancelled_at_once(thread: ThreadPoolExecutor) -> None:
    turns, go = OwnerTurns(thread), Event()
    running = turns.submit("a", lambda: go.wait(30))
    waiting = [turns.submit(owner, lambda: None) for owner in ("a", "b", "b")]
    turns.cancel()
    go.set()
    assert running.result(30)
    assert all(future.cancelled() for future in waiting)
