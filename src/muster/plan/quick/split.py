"""Layers for machines in a given order: as much cache as memory allows, then the least slowest stage. Exact.

Where a pipeline may be cut is a set of layers per machine: those at which it can end, given where the one before it can
end and that each takes at least one layer. Going as far as possible is not always right: who takes one layer fewer may
leave the next machine, too small for the output projection, something to do.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from muster.plan.quick.tables import Ints, Tables
from muster.spec.plan import Stage

Bools = npt.NDArray[np.bool_]


def cover(
    tables: Tables, order: Sequence[int], bound_s: float, pages: int, first: int, last: int
) -> tuple[Stage, ...] | None:
    """Layers [first, last) on all of these machines in this order within the bound; None if that cannot be."""
    if any(tables.wire[a, b] > bound_s for a, b in pairwise(order)):
        return None
    reach = tables.reach(bound_s, pages)
    ends = [np.arange(reach.shape[1]) == first]
    for machine in order:
        ends.append(_ends(ends[-1], reach[machine]))
    if not ends[-1][last]:
        return None
    cuts = [last]
    for machine, before in zip(reversed(order), reversed(ends[:-1]), strict=True):
        starts = np.flatnonzero(before[: cuts[-1]] & (reach[machine][: cuts[-1]] >= cuts[-1]))
        cuts.append(int(starts[-1]))
    cuts.reverse()
    nodes = [tables.nodes[machine] for machine in order]
    return tuple(
        Stage(node.id, a, b, tuple(range(node.device_count)))
        for node, (a, b) in zip(nodes, pairwise(cuts), strict=True)
    )


def _ends(before: Bools, reach: Ints) -> Bools:
    """Where a machine can end if the one before it can end at `before`: the union of (a, reach[a]] over those a."""
    starts = np.flatnonzero(before)
    steps = np.zeros(len(before) + 1, dtype=np.int64)
    np.add.at(steps, starts + 1, 1)
    np.add.at(steps, reach[starts] + 1, -1)
    return np.asarray(np.cumsum(steps)[:-1] > 0)


def furthest(tables: Tables, order: Sequence[int], pages: int) -> tuple[int, tuple[int, ...]]:
    """The layer that machines in this order reach, each as far as it can, and those that got something to do."""
    reach = tables.reach(float("inf"), pages)
    covered, used = 0, []
    for machine in order:
        if reach[machine, covered] > covered:
            covered = int(reach[machine, covered])
            used.append(machine)
    return covered, tuple(used)


def most_pages(tables: Tables, order: Sequence[int], bound_s: float, low: int, high: int) -> int:
    """The most KV pages, between `low` (known to work) and `high`, for which the order still covers all layers."""
    while low < high:
        middle = (low + high + 1) // 2
        if cover(tables, order, bound_s, middle, 0, tables.num_layers) is not None:
            low = middle
        else:
            high = middle - 1
    return low


def least_slowest(
    tables: Tables, order: Sequence[int], bound_s: float, pages: int, first: int, last: int
) -> tuple[Stage, ...] | None:
    """The cuts with the least slowest stage for this order and this much cache, none slower than the bound."""
    best = cover(tables, order, bound_s, pages, first, last)
    times = tables.times(pages, first, last)
    low, high = 0, int(np.searchsorted(times, bound_s))
    while low < high:
        middle = (low + high) // 2
        found = cover(tables, order, float(times[middle]), pages, first, last)
        if found is not None:
            best, high = found, middle
        else:
            low = middle + 1
    return best
