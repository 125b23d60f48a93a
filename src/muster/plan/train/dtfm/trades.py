"""Moves between runs of stages that keep every machine in use: who gives how many, so that the counts come out even.

A run of `width` stages with equal mixes holds `width` machines for each one in its mix. If every stage of run i gets
d_i machines more of one kind and d_i fewer of another, both kinds are used up as before if and only if

    sum over i of width_i d_i = 0.

Two runs alone often cannot do that but with large d (5 stages against 2: -2 and 5); with a third they can (1, -2, -1
for widths 5, 2, 1). The short solutions with two and with three runs are the trades.
"""

from functools import lru_cache
from itertools import combinations, product
from math import gcd

Trade = tuple[tuple[int, int], ...]
"""(run, machines that each of its stages gets; negative: gives), two or three of them."""

FARTHEST = 3
"""No stage gets or gives more in a trade of three."""


@lru_cache(maxsize=4096)
def trades(widths: tuple[int, ...]) -> tuple[tuple[Trade, ...], tuple[Trade, ...]]:
    """All trades of two runs, and those of three."""
    pairs = [(i, j, gcd(widths[i], widths[j])) for i, j in combinations(range(len(widths)), 2)]
    one_way = [((i, widths[j] // shared), (j, -widths[i] // shared)) for i, j, shared in pairs]
    twos = [*one_way, *(((i, -more), (j, -fewer)) for (i, more), (j, fewer) in one_way)]
    return tuple(twos), tuple(trade for three in combinations(range(len(widths)), 3) for trade in _among(three, widths))


def _among(three: tuple[int, ...], widths: tuple[int, ...]) -> list[Trade]:
    few = [number for number in range(-FARTHEST, FARTHEST + 1) if number]
    every = (zip(three, numbers, strict=True) for numbers in product(few, repeat=3) if gcd(*numbers) == 1)
    return [trade for trade in map(tuple, every) if sum(widths[run] * more for run, more in trade) == 0]
