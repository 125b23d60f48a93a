"""Who may wait at the door without having joined yet, and who has to go for a newcomer. Pure: no socket, no clock.

Whoever knows the head's id and address can open connections, and joining is a matter of milliseconds. So connections
that say nothing are cheap to give up: nobody's crowd keeps others out, neither those of one address nor of all.
"""

from collections import Counter
from typing import Generic, TypeVar

Visitor = TypeVar("Visitor")
MAX_STRANGERS = 256
MAX_FROM_ONE_SOURCE = 64
PATIENCE_S = 1.0
"""So long a stranger may be silent although another waits for its place."""


class Strangers(Generic[Visitor]):
    def __init__(self) -> None:
        self._waiting: dict[Visitor, tuple[str, float]] = {}
        """-> (source, since), the longest waiting first."""

    def __len__(self) -> int:
        return len(self._waiting)

    def enter(self, visitor: Visitor, source: str, now_s: float) -> tuple[bool, Visitor | None]:
        """Whether `visitor` may wait here, and whom to send away for it. `source` is where it comes from."""
        crowd = self._crowd_in_the_way_of(source)
        gone: Visitor | None = None
        if crowd is not None:
            gone = next(other for other, (place, _) in self._waiting.items() if place == crowd)
            takes_more = self._sizes()[crowd] > self._sizes()[source] + 1
            if not takes_more and now_s - self._waiting[gone][1] < PATIENCE_S:
                return False, None
            del self._waiting[gone]
        self._waiting[visitor] = (source, now_s)
        return True, gone

    def leave(self, visitor: Visitor) -> None:
        """It has joined, or is gone."""
        self._waiting.pop(visitor, None)

    def _crowd_in_the_way_of(self, source: str) -> str | None:
        sizes = self._sizes()
        if sizes[source] >= MAX_FROM_ONE_SOURCE:
            return source
        if len(self._waiting) >= MAX_STRANGERS:
            return max(sizes, key=lambda place: sizes[place])
        return None

    def _sizes(self) -> Counter[str]:
        return Counter(place for place, _ in self._waiting.values())
