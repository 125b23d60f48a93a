"""One thread for work of several owners: one piece of each in turn, whoever has asked for how much.

Knows nothing of what the work is.
"""

from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Any, TypeVar

Result = TypeVar("Result")


class OwnerTurns:
    def __init__(self, thread: ThreadPoolExecutor) -> None:
        """`thread` has one worker, and may have other work."""
        self._thread = thread
        self._waiting: OrderedDict[str, deque[tuple[Future[Any], Callable[[], Any]]]] = OrderedDict()
        """Of each owner what it asked for, oldest first; whose turn is next comes first."""
        self._lock = Lock()

    def submit(self, owner: str, work: Callable[[], Result]) -> "Future[Result]":
        """What is cancelled before its turn takes none."""
        future: Future[Result] = Future()
        with self._lock:
            self._waiting.setdefault(owner, deque()).append((future, work))
        self._thread.submit(self._run_next)
        return future

    def cancel(self) -> None:
        """Everything that waits."""
        with self._lock:
            waiting = [future for pieces in self._waiting.values() for future, _ in pieces]
            self._waiting.clear()
        for future in waiting:
            future.cancel()

    def _run_next(self) -> None:
        taken = self._take()
        while taken is not None:
            future, work = taken
            if future.set_running_or_notify_cancel():
                settle(future, work)
                return
            taken = self._take()

    def _take(self) -> tuple[Future[Any], Callable[[], Any]] | None:
        with self._lock:
            if not self._waiting:
                return None
            owner, pieces = self._waiting.popitem(last=False)
            taken = pieces.popleft()
            if pieces:
                self._waiting[owner] = pieces
            return taken


def settle(future: "Future[Result]", work: Callable[[], Result]) -> None:
    """Do the work; whoever waits is told what came of it, as executors do."""
    try:
        result = work()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)
