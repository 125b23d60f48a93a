"""Order and layers for a handful of machines, exactly. Knows nothing of how the handful was chosen.

For a bound on the slowest stage, going as far as a machine can is never wrong: whoever comes next can take any part of
what it could have taken. So the best that a *set* of machines can do is one number, the layers it covers, and a table
over all sets (2^C) answers "can k machines do it within this bound?". Bisection over the finitely many step times that
any stage can have then finds the least possible slowest stage. Where a link is too slow for the bound the table is kept
per set and last machine.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from math import inf

import numpy as np

from muster.cost.layer_ranges import Floats
from muster.plan.quick.split import Bools, cover
from muster.plan.quick.tables import Ints, Tables

Order = tuple[int, ...]
"""Indices into `Tables.nodes`, first stage first."""

MAX_CHECKED = 64
"""Sets of one size whose order is checked in full before larger sets are tried."""


class Search:
    """Pipelines of `tables.nodes` over layers [first, last) that reserve `pages` pages."""

    def __init__(self, tables: Tables, first: int, last: int, pages: int) -> None:
        self.tables, self.first, self.last, self.pages = tables, first, last, pages
        self.count = len(tables.nodes)
        self.times = tables.times(pages, first, last)
        self._wire = tables.wire
        self._fewest: dict[int, int | None] = {}

    def tightest(self, most_stages: int) -> float:
        """The least slowest-stage time of at most `most_stages` machines; infinite if they cannot at all."""
        low, high = 0, len(self.times)
        while low < high:
            middle = (low + high) // 2
            fewest = self._fewest_at(middle)
            if fewest is not None and fewest <= most_stages:
                high = middle
            else:
                low = middle + 1
        return float(self.times[low]) if low < len(self.times) else inf

    def _fewest_at(self, index: int) -> int | None:
        if index not in self._fewest:
            self._fewest[index] = self.fewest(float(self.times[index]))
        return self._fewest[index]

    def fewest(self, bound_s: float) -> int | None:
        """The fewest machines that cover all layers within the bound."""
        found = self._cover(bound_s)
        return None if found is None else len(found)

    def some_order(self, bound_s: float) -> Order | None:
        """One order of the fewest machines that covers all layers within the bound."""
        return self._cover(bound_s)

    def _cover(self, bound_s: float) -> Order | None:
        reach = self._reach(bound_s)
        hops = self._wire <= bound_s
        if hops.all():
            return self._cover_any_order(reach)
        return self._cover_along_links(reach, hops, bound_s)

    def _reach(self, bound_s: float) -> Ints:
        return np.minimum(self.tables.reach(bound_s, self.pages), self.last)

    def _cover_any_order(self, reach: Ints) -> Order | None:
        best = np.full(1 << self.count, self.first, dtype=np.int64)
        for sets in self._fill(best, reach):
            winners = sets[best[sets] >= self.last]
            if len(winners):
                return _backtrack(int(winners[0]), best, reach)
        return None

    def _fill(self, best: Ints, reach: Ints) -> Iterator[Ints]:
        """Write the layers that each set covers into `best`, one size of set after the other."""
        for level in _levels(self.count):
            for machine, sets, before in level.moves:
                best[sets] = np.maximum(best[sets], reach[machine, best[before]])
            yield level.sets

    def _cover_along_links(self, reach: Ints, hops: Bools, bound_s: float) -> Order | None:
        """As above, but `best` also knows the last machine; -1 where a set cannot end there.

        Everybody takes a layer at least, or a machine could serve as a bridge between two others for nothing. Whoever
        cannot take the next layer may get an earlier one from the machine before: `onward`. That all of them can give
        one away is certain only if all layers are alike, so the order that is found is checked.
        """
        onward = _onward(reach)
        best = np.full((1 << self.count, self.count), -1, dtype=np.int64)
        for size, level in enumerate(_levels(self.count), start=1):
            for machine, sets, before in level.moves:
                if size == 1:
                    best[sets, machine] = np.where(
                        reach[machine, self.first] > self.first, reach[machine, self.first], -1
                    )
                    continue
                start = np.where(hops[:, machine], best[before], -1).max(axis=1)
                best[sets, machine] = np.where(start < 0, -1, onward[machine, np.maximum(start, 0)])
            ends = level.sets[best[level.sets].max(axis=1) >= self.last]
            for winner in ends[:MAX_CHECKED]:
                order = _backtrack_along(int(winner), best, hops)
                if self.covers(order, bound_s):
                    return order
        return None

    def covers(self, order: Order, bound_s: float) -> bool:
        """Whether the order really covers all layers within the bound, each machine with at least one."""
        return cover(self.tables, order, bound_s, self.pages, self.first, self.last) is not None

    def furthest(self) -> int:
        """The layer that all machines together reach in their best order, whatever the time."""
        best = np.full(1 << self.count, self.first, dtype=np.int64)
        for _ in self._fill(best, self._reach(inf)):
            pass
        return int(best[-1])

    def quickest_order(self, most_stages: int, bound_s: float) -> Order | None:
        """The order with the least latency around the ring among those of at most `most_stages` within the bound.

        Exact unless the budget of looked-at orders runs out; then the best so far.
        """
        reach = self._reach(bound_s)
        tour = _Tour(
            covers=lambda order: self.covers(order, bound_s),
            onward=_onward(reach),
            hops=self._wire <= bound_s,
            usable=np.isfinite(self._wire),
            latency=self.tables.latency,
            further=_further(_onward(reach), most_stages),
            last=self.last,
            budget=self.tables.options.order_budget,
        )
        seed = self.some_order(bound_s)
        if seed is not None and len(seed) <= most_stages:
            tour.offer(seed)
        for machine in range(self.count):
            tour.first = machine
            tour.seen.clear()
            if reach[machine, self.first] > self.first:
                tour.extend((machine,), int(reach[machine, self.first]), 0.0, most_stages - 1)
        return tour.best


@dataclass(slots=True)
class _Tour:
    """Depth-first search over orders with three cuts: reach, latency, and states that a better path already visited."""

    covers: Callable[[Order], bool]
    onward: Ints
    hops: Bools
    usable: Bools
    latency: Floats
    further: Ints
    last: int
    budget: int
    first: int = 0
    best: Order | None = None
    best_s: float = inf
    seen: dict[tuple[int, int], list[tuple[float, int]]] = field(default_factory=dict)

    def offer(self, order: Order) -> None:
        """Keep `order` if the ring closes and is quicker than the best."""
        if len(order) > 1 and not self.usable[order[-1], order[0]]:
            return
        ring_s = sum(float(self.latency[a, b]) for a, b in zip(order, (*order[1:], order[0]), strict=True))
        if ring_s < self.best_s - 1e-12 and self.covers(order):
            self.best, self.best_s = order, ring_s

    def extend(self, order: Order, covered: int, spent_s: float, left: int) -> None:
        if covered >= self.last:
            self.offer(order)
            return
        if left == 0 or self.further[left, covered] < self.last or spent_s >= self.best_s or self.budget <= 0:
            return
        if self._dominated(order, covered, spent_s):
            return
        for machine in self._nearest(order):
            reached = int(self.onward[machine, covered])
            if reached > 0:
                self.budget -= 1
                hop_s = float(self.latency[order[-1], machine])
                self.extend((*order, machine), reached, spent_s + hop_s, left - 1)

    def _nearest(self, order: Order) -> Iterator[int]:
        here = order[-1]
        for machine in np.argsort(self.latency[here], kind="stable"):
            if machine not in order and self.hops[here, machine]:
                yield int(machine)

    def _dominated(self, order: Order, covered: int, spent_s: float) -> bool:
        """Whether the same machines with the same end got at least as far in at most that time."""
        key = (sum(1 << machine for machine in order), order[-1])
        known = self.seen.setdefault(key, [])
        if any(seconds <= spent_s and layers >= covered for seconds, layers in known):
            return True
        known.append((spent_s, covered))
        return False


@dataclass(frozen=True, slots=True)
class _Level:
    """All sets of one size, and for every machine: the sets that hold it and the same sets without it."""

    sets: Ints
    moves: tuple[tuple[int, Ints, Ints], ...]


@lru_cache(maxsize=32)
def _levels(count: int) -> tuple[_Level, ...]:
    every = np.arange(1 << count, dtype=np.int64)
    sizes = sum(((every >> machine) & 1) for machine in range(count))
    levels = []
    for size in range(1, count + 1):
        sets = every[sizes == size]
        held = [(machine, sets[(sets >> machine) & 1 == 1]) for machine in range(count)]
        levels.append(_Level(sets, tuple((machine, some, some ^ (1 << machine)) for machine, some in held)))
    return tuple(levels)


def _backtrack(winner: int, best: Ints, reach: Ints) -> Order:
    order: list[int] = []
    while winner:
        for machine in range(len(reach)):
            before = winner ^ (1 << machine)
            if winner >> machine & 1 and reach[machine, best[before]] == best[winner]:
                order.append(machine)
                winner = before
                break
    return tuple(reversed(order))


def _backtrack_along(winner: int, best: Ints, hops: Bools) -> Order:
    machine = int(best[winner].argmax())
    order = [machine]
    while winner := winner ^ (1 << machine):
        machine = int(np.where(hops[:, machine], best[winner], -1).argmax())
        order.append(machine)
    return tuple(reversed(order))


def _onward(reach: Ints) -> Ints:
    """[i, l] -> how far machine i can get from layer l or any before, taking at least one; -1 if it can take none."""
    some = np.where(reach > np.arange(reach.shape[1]), reach, -1)
    return np.asarray(np.maximum.accumulate(some, axis=1))


def _further(reach: Ints, most: int) -> Ints:
    """[r, l] -> how far r more stages could get from layer l at best, machines used again or not."""
    rows = [np.arange(reach.shape[1], dtype=np.int64)]
    for _ in range(most):
        rows.append(np.where(reach < 0, -1, rows[-1][reach]).max(axis=0))
    return np.array(rows)
