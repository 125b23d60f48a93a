"""The tasks of one owner: none is lost sight of, and a bug in one ends the owner's work. Knows nothing of the work.

Unlike `asyncio.TaskGroup` it is no block of code: an owner starts tasks from wherever it is told something.
"""

import asyncio
from collections.abc import Collection, Coroutine
from traceback import format_tb
from typing import Any

import structlog

log = structlog.get_logger()


class Tasks:
    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()
        self._over = asyncio.Event()
        self._error: BaseException | None = None

    def spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._done)
        return task

    def __len__(self) -> int:
        return len(self._running)

    def end(self, error: BaseException | None = None) -> None:
        """The owner's work is over; only the first end counts."""
        if not self._over.is_set():
            self._error = error
            self._over.set()

    async def wait(self) -> None:
        """Until the end. Raises its error, or what no task should have raised."""
        await self._over.wait()
        if self._error is not None:
            raise self._error

    async def cancel(self, but: Collection["asyncio.Task[None]"] = ()) -> None:
        """Stop all tasks and return when they have stopped, whether or not the owner's work is over."""
        tasks = self._running.difference(but) - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._running.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            # The traceback without its local variables: those may hold people's prompts.
            log.error("task.bug", error=repr(error), where="".join(format_tb(error.__traceback__)))
            self.end(error)
