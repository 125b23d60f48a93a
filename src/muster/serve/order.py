"""In which order the steps of a ring may run. Knows nothing of what they carry.

Steps are numbered as they leave the head. Each names the last one that must have run before it (`after`, -1 for none):
all up to that, and no others. So whatever is late delays only what needs it, and a frame that comes twice is seen.

    came      0 1 3 4        2 is late
    after     - - 2 0        3 needs it, 4 does not: 4 runs now, 3 when 2 has run
"""

from collections.abc import Callable, Collection, Iterable
from typing import Generic, TypeVar

from muster.errors import ProtocolViolation

MAX_AHEAD = 4096
"""The head lets no step go that is so far ahead of the oldest that has not come back."""
Item = TypeVar("Item")


class StepOrder(Generic[Item]):
    """Steps that came, in any order and perhaps more than once, each given out when it may run."""

    def __init__(self) -> None:
        self.floor = 0
        """All steps below have run."""
        self._ran: set[int] = set()
        """Others that have."""
        self._waiting: dict[int, tuple[int, Item]] = {}

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def add(self, number: int, after: int, item: Item) -> bool:
        """False if it was here before. Raises `ProtocolViolation` for a number or an order that cannot be."""
        if number >= self.floor + MAX_AHEAD or not -1 <= after < number:
            raise ProtocolViolation(
                f"Step {number} after {after} came where all below {self.floor} have run; the peer runs other code."
            )
        if self.has_run(number) or number in self._waiting:
            return False
        self._waiting[number] = (after, item)
        return True

    def has_run(self, number: int) -> bool:
        return number < self.floor or number in self._ran

    def take(self, is_ready: Callable[[Item], bool] = lambda item: True) -> Item | None:
        """The oldest that may run now; it counts as having run. None if there is none."""
        number = self._due(is_ready)
        if number is None:
            return None
        _, item = self._waiting.pop(number)
        self._run(number)
        return item

    def peek(self) -> Item | None:
        """The oldest that may run now, as far as the order is concerned. None if there is none."""
        number = self._due(lambda item: True)
        return None if number is None else self._waiting[number][1]

    def _due(self, is_ready: Callable[[Item], bool]) -> int | None:
        ready = (
            number
            for number, (after, item) in sorted(self._waiting.items(), key=lambda pair: pair[0])
            if after < self.floor and is_ready(item)
        )
        return next(ready, None)

    def _run(self, number: int) -> None:
        self._ran.add(number)
        while self.floor in self._ran:
            self._ran.remove(self.floor)
            self.floor += 1


class UnderWay:
    """What steps that have not come back do to pages and slots, so that later ones know which to wait for.

    The head's books: pages mean the same at every stage.
    """

    def __init__(self, steps: Collection[int]) -> None:
        """`steps` are the numbers of those that are under way, now and whenever it is asked."""
        self._steps = steps
        self._left: dict[int, int] = {}
        self._written: dict[int, int] = {}
        self._released: dict[int, int] = {}

    def last(self, step: int) -> int:
        """This step if it is under way, else -1."""
        return step if step in self._steps else -1

    def write(self, page: int, step: int) -> None:
        """Others may find the page, whose last words this step writes."""
        self._written[page] = step

    def leave(self, pages: Iterable[int], step: int) -> None:
        """Whoever held these gives them up, and this was the last step that it used them in."""
        if step in self._steps:
            self.copy(pages, step)

    def copy(self, pages: Iterable[int], step: int) -> None:
        """This step reads pages that are nobody's when it has left."""
        for page in pages:
            self._left[page] = max(step, self._left.get(page, -1))

    def release(self, slots: Iterable[int], step: int) -> None:
        """The last stage hears with this step that they are free."""
        self._released.update((slot, step) for slot in slots)

    def before_reading(self, pages: Iterable[int]) -> int:
        """The step that must have run before somebody else reads these; -1 for none."""
        return max((self.last(self._written.get(page, -1)) for page in pages), default=-1)

    def before_writing(self, pages: Iterable[int]) -> int:
        """The same for whoever gets pages that others gave up."""
        if not self._steps:
            return -1
        left = max((self._left.get(page, -1) for page in pages), default=-1)
        # Of several that used a page the last may have come back, and one before it not.
        return max((step for step in self._steps if step <= left), default=-1) if left >= 0 else -1

    def before_admitting(self, slot: int) -> int:
        return self.last(self._released.get(slot, -1))
