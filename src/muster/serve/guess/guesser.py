"""What guesses tokens. Knows nothing of rings, costs or how often it was right."""

from dataclasses import dataclass
from typing import Protocol

from muster.serve.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Prospect:
    """What a guesser could do for one sequence now."""

    kind: str
    """Guesses of one kind are right about equally often."""
    most: int
    """Guesses that it has."""
    guess_s: float = 0.0
    """What one of them takes."""


class Guesser(Protocol):
    def prospect(self, sequence: Sequence) -> Prospect | None:
        """None where it has nothing to say. Quick."""

    def guess(self, sequence: Sequence, count: int) -> tuple[int, ...]:
        """Up to `count` tokens, after a `prospect` of the same sequence."""

    def forget(self, sequence: Sequence) -> None:
        """It has ended."""
