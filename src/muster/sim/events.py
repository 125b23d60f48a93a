"""A clock that jumps from event to event. Knows nothing of what happens then.

Events of the same moment come in the order in which they were announced, so the same input gives the same history.
"""

from collections.abc import Callable
from heapq import heappop, heappush
from math import inf
from typing import Any


class Events:
    def __init__(self, now_s: float = 0.0) -> None:
        self.now_s = now_s
        self.count = 0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []

    def at(self, when_s: float, act: Callable[..., None], *arguments: Any) -> None:
        """`act(*arguments)` happens at `when_s`, which is not in the past; never, if that is infinite."""
        if when_s < inf:
            self.count += 1
            heappush(self._heap, (when_s, self.count, act, arguments))

    def run(self) -> None:
        """Until nothing is to come."""
        heap = self._heap
        while heap:
            self.now_s, _, act, arguments = heappop(heap)
            act(*arguments)
