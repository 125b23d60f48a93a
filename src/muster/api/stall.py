"""Ends a stream that gets nowhere: one timer for all waits of one stream. Knows nothing of what is waited for.

A timeout around every wait would do the same and be made, scheduled and taken back with every token.
"""

import asyncio
from collections.abc import Awaitable
from types import TracebackType
from typing import Self, TypeVar

from muster.errors import PoolUnavailable

T = TypeVar("T")


class StallTimer:
    """`async with` it around the stream, all of it in one task, and `wait` for each piece.

    Only waiting counts: a client that reads slowly does not make a stream stall.
    """

    def __init__(self, stall_s: float) -> None:
        """A wait that takes so long ends with `PoolUnavailable`."""
        self._stall_s = stall_s
        self._limit = asyncio.timeout(None)
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._since_s: float | None = None
        """When the wait that is under way began."""

    async def wait(self, piece: Awaitable[T]) -> T:
        self._since_s = self._loop.time()
        try:
            return await piece
        finally:
            self._since_s = None

    async def __aenter__(self) -> Self:
        await self._limit.__aenter__()
        self._timer = self._loop.call_later(self._stall_s, self._look)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        try:
            await self._limit.__aexit__(kind, error, trace)
        except TimeoutError:
            raise PoolUnavailable(
                f"The pool made no progress on this request for {self._stall_s:.0f} s; try again, and see "
                "`muster status`."
            ) from None

    def _look(self) -> None:
        now_s = self._loop.time()
        over_s = (now_s if self._since_s is None else self._since_s) + self._stall_s
        if over_s <= now_s:
            self._timer = None
            self._limit.reschedule(now_s)
        else:
            self._timer = self._loop.call_at(over_s, self._look)
