"""Guesses that are right for a while, as only somebody can know who has seen the answers."""

from collections.abc import Callable
from random import Random

from muster.serve.guess.guessing import Guessing
from muster.serve.sequence import Sequence
from muster.spec.request import Request


class Oracle(Guessing):
    """Takes the place of `Guessing`: always guesses, some right tokens and then any."""

    def __init__(self, answer: Callable[[Request], list[int]], seed: int, vocabulary: int = 37) -> None:
        super().__init__((), lambda: 0.0)
        self._answer, self._random, self._vocabulary = answer, Random(seed), vocabulary

    def guess(self, sequence: Sequence, most: int, others_wait: bool) -> tuple[int, ...]:
        answer = self._answer(sequence.request)[sequence.num_emitted :]
        right = answer[: self._random.randint(0, min(most, 6))]
        wrong = [self._random.randrange(self._vocabulary) for _ in range(self._random.randint(0, 3))]
        return tuple([*right, *wrong][:most])
