"""One answer for all who ask the same at once. Knows nothing of what is asked.

Whoever asks gets an answer to a question put after he came: requests by the hundred cost two questions, one of which
was under way, and nobody sees what was true before.
"""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class AskedOnce(Generic[T]):
    def __init__(self, ask: Callable[[], T]) -> None:
        """`ask` may block; it is called in a thread, one at a time."""
        self._ask = ask
        self._one_at_a_time = asyncio.Lock()
        self._next: asyncio.Task[T] | None = None
        """What has not been asked yet."""

    async def __call__(self) -> T:
        if self._next is None:
            self._next = asyncio.create_task(self._put())
            self._next.add_done_callback(_seen)
        return await asyncio.shield(self._next)

    async def _put(self) -> T:
        async with self._one_at_a_time:
            self._next = None
            return await asyncio.to_thread(self._ask)


def _seen(task: asyncio.Task[T]) -> None:
    """Everybody may have left before it failed; asyncio would complain in their place."""
    if not task.cancelled():
        task.exception()
