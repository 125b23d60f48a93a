"""Layers for machines in a given order: as much cache as memory allows, then the least slowest stage.

A machine that cannot take even one layer where its turn comes is left out of the order.
"""

from collections.abc import Sequence
from itertools import pairwise

from muster.plan.tables import Tables
from muster.spec.plan import Stage


def cover(
    tables: Tables, order: Sequence[int], bound_s: float, pages: int, first: int, last: int
) -> tuple[Stage, ...] | None:
    """Let each machine go as far as it can within the bound; None if layers remain or a link is too slow for it."""
    reach = tables.reach(bound_s, pages)
    taken: list[tuple[int, int, int]] = []
    covered = first
    for machine in order:
        reached = min(int(reach[machine, covered]), last)
        if reached > covered:
            taken.append((machine, covered, reached))
            covered = reached
    hops = pairwise(taken)
    if covered < last or any(tables.wire[a[0], b[0]] > bound_s for a, b in hops):
        return None
    return tuple(Stage(tables.nodes[machine].id, a, b) for machine, a, b in taken)


def furthest(tables: Tables, order: Sequence[int], pages: int, last: int) -> int:
    """The layer that the machines reach together in this order, whatever the time."""
    reach = tables.reach(float("inf"), pages)
    covered = 0
    for machine in order:
        covered = min(int(reach[machine, covered]), last)
    return covered


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
    low, high = 0, len(times)
    while low < high:
        middle = (low + high) // 2
        found = cover(tables, order, min(float(times[middle]), bound_s), pages, first, last)
        if found is not None:
            best, high = found, middle
        else:
            low = middle + 1
    return best
