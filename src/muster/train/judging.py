"""Whose move is not taken, where replicas judge each other's: by what it does to the loss, its size and its direction.

Pure. Why three things: at its weight in the mean, an honest move lowers the loss, the opposite of an honest one raises
it, and noise of its size does next to nothing. But one of many times that size may lower the loss for a while, and late
in training honest moves, too, do next to nothing now and then; those still point where the others do, as no noise does.
"""

from collections.abc import Sequence
from math import inf, isfinite, sqrt
from statistics import median, median_high, median_low

Gram = Sequence[Sequence[float]]
"""Inner products of all moves with all, over all weights."""

LONGEST = 3.0
"""Times the size of the others. Honest ones were within 0.86 and 1.18 in 160 rounds (`benchmarks/poison.py`)."""
HARMFUL, USELESS = -0.5, 0.2
"""Shares of what others gain. Honest ones gained 0.37 of it or more, but for one of 180, at -0.13."""
ALIGNED = 0.03
"""Cosine with the sum of the others. Honest ones had 0.058 or more, noise 0.009 at most."""


def refused(gram: Gram, gains: Sequence[Sequence[float]]) -> tuple[int, ...]:
    """Replicas whose move is not taken, in order; never most of them, the worst first.

    `gains[i][j]`: by how much the loss of pipeline j falls (nats) by move i alone, at its weight in the mean.
    No replica is asked about its own move, and of the others the median counts, so that few can say what they like.
    """
    size = [sqrt(max(0.0, row[number])) if isfinite(row[number]) else inf for number, row in enumerate(gram)]
    finite = [one for one in size if one < inf]
    longest = LONGEST * median_low(finite) if finite else 0.0
    left = [number for number, one in enumerate(size) if one < inf and one <= longest]
    gain = {number: _gain(gains[number], number) for number in left}
    usual = median_high(gain.values()) if gain else 0.0
    badness = {number: inf for number in range(len(gram)) if number not in left}
    for number in left if usual > 0 else ():
        share = gain[number] / usual
        if share < HARMFUL or (share < USELESS and _cosine(gram, number, left) < ALIGNED):
            badness[number] = -share
    most = max(1, (len(gram) - 1) // 2)
    return tuple(sorted(sorted(badness, key=lambda number: -badness[number])[:most]))


def _gain(gains: Sequence[float], own: int) -> float:
    others = [one if isfinite(one) else -inf for number, one in enumerate(gains) if number != own]
    return median(others) if others else 0.0


def _cosine(gram: Gram, number: int, left: Sequence[int]) -> float:
    others = [one for one in left if one != number]
    along = sum(gram[number][other] for other in others)
    length = sum(gram[one][other] for one in others for other in others)
    squared = gram[number][number] * length
    return along / sqrt(squared) if squared > 0 else 0.0
