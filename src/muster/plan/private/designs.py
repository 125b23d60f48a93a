"""Which shards of a prompt each party may see, so that any two shards meet somewhere and no few parties see all.

A *design* gives each party a block of shards. Two conditions make it good for `colluders` (k) parties that talk:

    every two shards lie in one block       else no AttnNode could have the queries of one and the keys of the other
    no k blocks together are all shards     else k parties would have the whole prompt

**2k + 1 parties are needed, and suffice.** With 2k or fewer, two coalitions hold everybody; each misses a shard, and
the pair of those two lies in nobody's block. With 2k + 1, take as shards all sets of k parties, each hidden from
exactly the parties in its set: two sets leave somebody who is in neither. (So are secrets shared in honest-majority
computation: Ito, Saito and Nishizeki, 1987.) More parties allow smaller blocks: pairs of shards, affine and projective
planes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from math import comb

MAX_SHARDS = 40
"""Traffic grows with their number, and roles with its square."""
PRIMES = (2, 3, 5)

Blocks = tuple[frozenset[int], ...]


@dataclass(frozen=True, slots=True)
class Design:
    name: str
    shards: int
    blocks: Blocks
    """Of each party that takes part."""

    @property
    def share(self) -> float:
        """The largest share of a prompt that one party sees."""
        return max(map(len, self.blocks)) / self.shards


def fewest_parties(colluders: int) -> int:
    return 2 * colluders + 1


def designs(parties: int, colluders: int) -> list[Design]:
    """All that are known here, those that show least first; of equals, those with fewer shards, which cost less."""
    found = [each for each in _all(parties, colluders) if each.shards <= MAX_SHARDS]
    return sorted(found, key=lambda each: (each.share, each.shards, len(each.blocks)))


def _all(parties: int, colluders: int) -> Iterator[Design]:
    fewest = fewest_parties(colluders)
    if parties >= fewest and comb(fewest, colluders) <= MAX_SHARDS:
        yield _hidden_from(fewest, colluders)
    for shards in range(fewest, MAX_SHARDS):
        if comb(shards, 2) <= parties:
            yield Design("pairs", shards, tuple(frozenset(pair) for pair in combinations(range(shards), 2)))
    for order in PRIMES:
        if order > colluders and order * order + order <= parties:
            yield Design(f"affine plane of order {order}", order * order, _affine_lines(order))
        if order >= colluders and order * order + order + 1 <= parties:
            yield Design(f"projective plane of order {order}", order * order + order + 1, _projective_lines(order))


def _hidden_from(parties: int, colluders: int) -> Design:
    sets = list(combinations(range(parties), colluders))
    blocks = tuple(
        frozenset(shard for shard, hidden in enumerate(sets) if party not in hidden) for party in range(parties)
    )
    return Design(f"one shard hidden from each {colluders} of {parties}", len(sets), blocks)


def _affine_lines(order: int) -> Blocks:
    """Of the plane over the integers modulo a prime; point (x, y) is x * order + y."""
    axis = range(order)
    sloped = [frozenset(x * order + (m * x + b) % order for x in axis) for m in axis for b in axis]
    return (*sloped, *(frozenset(x * order + y for y in axis) for x in axis))


def _projective_lines(order: int) -> Blocks:
    """The affine lines, each with the point at infinity of its direction, and the line of those points."""
    infinity = order * order
    lines = [line | {infinity + index // order} for index, line in enumerate(_affine_lines(order))]
    return (*lines, frozenset(range(infinity, infinity + order + 1)))
