"""Guesses from the text itself: what followed the last few tokens where they stood before.

Prompt lookup (A. Saxena, 2023), with one rule more: a guess that reaches the end of the text goes on reading in itself,
so that a loop of any length is guessed as far as is asked.
"""

from muster.serve.guess.guesser import Prospect
from muster.serve.sequence import Sequence
from muster.serve.turn import MAX_GUESSES

LENGTH = 3
"""Tokens that must agree."""
STEPS = (16, 8, 5, LENGTH)
"""Guesses after a longer agreement are right more often."""


class _Index:
    """Where the runs of `LENGTH` tokens of one sequence last stood."""

    def __init__(self) -> None:
        self._behind: dict[tuple[int, ...], int] = {}
        self._known = LENGTH
        """The runs that end before this place are known."""

    def last_behind(self, tokens: list[int]) -> int | None:
        """The place behind the last run that is the end of the tokens, not counting that end."""
        for end in range(self._known, len(tokens)):
            self._behind[tuple(tokens[end - LENGTH : end])] = end
        self._known = max(self._known, len(tokens))
        return self._behind.get(tuple(tokens[-LENGTH:]))


class NgramGuesser:
    """Implements `Guesser`."""

    def __init__(self) -> None:
        self._indexes: dict[str, _Index] = {}
        self._found: tuple[str, int, int] = ("", 0, 0)

    def prospect(self, sequence: Sequence) -> Prospect | None:
        index = self._indexes.setdefault(sequence.request.id, _Index())
        place = index.last_behind(sequence.tokens)
        if place is None:
            return None
        self._found = (sequence.request.id, len(sequence.tokens), place)
        return Prospect(f"n-gram of {_agreeing(sequence.tokens, place)}", MAX_GUESSES)

    def guess(self, sequence: Sequence, count: int) -> tuple[int, ...]:
        found, length, place = self._found
        assert (found, length) == (sequence.request.id, len(sequence.tokens)), "a prospect comes first"
        return tuple(sequence.tokens[place + offset % (length - place)] for offset in range(count))

    def forget(self, sequence: Sequence) -> None:
        self._indexes.pop(sequence.request.id, None)


def _agreeing(tokens: list[int], place: int) -> int:
    """How many tokens before `place` are those at the end, as one of `STEPS`."""
    length = LENGTH
    while length < min(STEPS[0], place) and tokens[place - length - 1] == tokens[-length - 1]:
        length += 1
    return next(step for step in STEPS if step <= length)
