"""What one stage has sent and may have to send again, because the link broke before it arrived. Knows no links.

A step is kept until the head of the ring says that its tokens have come back, so the round has closed.
"""

from collections import deque
from dataclasses import dataclass, field

from muster.spec.sampling import MAX_GRAMMARS
from muster.wire.frame import Payload
from muster.wire.messages.every import AnyMessage

MAX_KEPT_BYTES = 256 * 2**20
"""Of hidden states, over one hop. What is beyond it cannot be sent again."""

MAX_BESIDE = MAX_GRAMMARS
"""Messages about grammars: so many are there at once."""


@dataclass(slots=True)
class Unclosed:
    """The messages of rounds that have not closed, by the number of their step."""

    most_bytes: int = MAX_KEPT_BYTES
    beside: deque[AnyMessage] = field(default_factory=lambda: deque(maxlen=MAX_BESIDE))
    """The last messages that belong to no step; whoever gets one again knows it."""
    _kept: dict[int, tuple[AnyMessage, Payload]] = field(default_factory=dict)
    _nbytes: int = 0
    _lost: int = -1
    """The last step that was dropped for want of room."""
    _floor: int = 0

    def add(self, number: int, message: AnyMessage, payload: Payload = b"") -> None:
        self._kept[number] = (message, payload)
        self._nbytes += len(payload)
        while self._nbytes > self.most_bytes:
            self._lost = max(self._lost, next(iter(self._kept)))
            self._drop(next(iter(self._kept)))

    def close(self, floor: int) -> None:
        """All rounds below `floor` have closed."""
        self._floor = max(self._floor, floor)
        for number in [number for number in self._kept if number < floor]:
            self._drop(number)

    def again(self) -> list[tuple[AnyMessage, Payload]] | None:
        """All of them, in the order in which they left; None where some are gone that may be wanted."""
        if self._lost >= self._floor:
            return None
        return [*((message, b"") for message in self.beside), *self._kept.values()]

    def _drop(self, number: int) -> None:
        _, payload = self._kept.pop(number)
        self._nbytes -= len(payload)
