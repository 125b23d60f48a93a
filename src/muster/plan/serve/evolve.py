"""The search over layouts: merge, split and move, as HexGen has it, from structured starts.

A layout is worth what its replicas are worth together, as far as the options allow them. A change touches one or two
teams; only these are designed again, and teams seen before cost nothing. The same seed gives the same result: the
budget is counted in replicas designed and in changes tried.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from muster.plan.serve.fleet import Fleet
from muster.plan.serve.layout import Layout, Slice, Team, group_of, team
from muster.plan.serve.replica import Replica, Replicas
from muster.plan.serve.worth import Worth

_POPULATION = 8
_TRIES_PER_EVALUATION = 20
_IDLE_TRIES = 400


@dataclass(frozen=True)
class Scored:
    layout: Layout
    replicas: tuple[Replica | None, ...]
    """Of each team."""
    used: tuple[bool, ...]
    """Teams that serve; the others stay idle."""
    score: float


@dataclass
class Evolution:
    fleet: Fleet
    replicas: Replicas
    worth: Worth
    rng: np.random.Generator
    out_of_time: Callable[[], bool]
    budget: int
    """Replicas that may be designed."""
    aim: int = 0
    """For which of the deadlines."""
    cut_short: bool = False
    population: list[Scored] = field(default_factory=list)
    by_count: dict[int, Scored] = field(default_factory=dict)
    """The best with so many replicas."""
    _seen: set[tuple[tuple[tuple[int, int], ...], ...]] = field(default_factory=set)

    def score(self, layout: Layout) -> Scored:
        found = tuple(self.replicas.best(group_of(self.fleet, members), self.aim) for members in layout)
        used = self.worth.chosen(layout, found)
        return Scored(layout, found, used, self.worth.score(layout, found, used))

    def run(self, starts: Iterable[Layout]) -> list[Scored]:
        """The best layouts, the best first."""
        first = []
        for layout in starts:
            if self._stop():
                break
            first.append(self.score(layout))
            self._keep(first[-1])
        if first:
            self._keep(self.score(mosaic(self.fleet, first)))
        tries = idle = 0
        while first and not self._stop() and tries < _TRIES_PER_EVALUATION * self.budget and idle < _IDLE_TRIES:
            tries += 1
            # Where no start holds the model, a change of one may.
            child = self.change(self._parent(self.population or first).layout)
            better = child is not None and self._keep(self.score(child))
            idle = 0 if better else idle + 1
        return self.population

    def best_of(self, layouts: Iterable[Layout]) -> list[Scored]:
        """The best of these and no others, whatever the budget."""
        for layout in layouts:
            if self.out_of_time():
                self.cut_short = True
                break
            self._keep(self.score(layout))
        return self.population

    def different(self) -> list[Scored]:
        """The best of all, and the best with other numbers of replicas; the best first."""
        return sorted(self.by_count.values(), key=lambda one: -one.score)

    def _stop(self) -> bool:
        self.cut_short = self.cut_short or self.out_of_time()
        return self.cut_short or self.replicas.designed >= self.budget

    def _parent(self, among: Sequence[Scored]) -> Scored:
        """The better of two, drawn at random."""
        drawn = self.rng.integers(len(among), size=2)
        return among[int(drawn.min())]

    def _keep(self, scored: Scored) -> bool:
        """Whether it is among the best so far."""
        key = tuple(sorted(group_of(self.fleet, members) for members in scored.layout))
        if scored.score <= 0 or key in self._seen:
            return False
        self._seen.add(key)
        count = sum(scored.used)
        if count not in self.by_count or scored.score > self.by_count[count].score:
            self.by_count[count] = scored
        self.population.append(scored)
        self.population.sort(key=lambda one: (-one.score, len(one.layout)))
        del self.population[_POPULATION:]
        return scored in self.population[:_POPULATION]

    def change(self, layout: Layout) -> Layout | None:
        """One random merge, split or move; None if it changes nothing."""
        kind = int(self.rng.integers(4))
        if kind == 0 and len(layout) > 1:
            return self._merge(layout)
        if kind == 1:
            return self._split(layout)
        return self._move(layout) if len(layout) > 1 else self._split(layout)

    def _merge(self, layout: Layout) -> Layout:
        first, second = self._two(layout)
        return (*_without(layout, first, second), team((*layout[first], *layout[second])))

    def _split(self, layout: Layout) -> Layout | None:
        """A team in two: between machines at a random place of a tour, or one machine's devices in halves."""
        index = int(self.rng.integers(len(layout)))
        members = layout[index]
        if len(members) > 1 and self.rng.random() < 0.7:
            ordered = sorted(members, key=lambda one: (self.fleet.class_of[one.node], one.node))
            cut = int(self.rng.integers(1, len(ordered)))
            parts = [team(ordered[:cut]), team(ordered[cut:])]
        else:
            parts = [team(part) for part in _halves(members) if part]
        return (*_without(layout, index), *parts) if len(parts) == 2 else None

    def _move(self, layout: Layout) -> Layout | None:
        """Some devices of one machine go from one team to another, or two machines change places."""
        first, second = self._two(layout)
        gone = self._some(layout[first])
        giver, taker = _take(layout[first], gone), team((*layout[second], gone))
        if self.rng.random() < 0.3:
            back = self._some(layout[second])
            if back.node == gone.node:
                return None
            giver, taker = team((*giver, back)), _take(taker, back)
        return (*_without(layout, first, second), *(one for one in (giver, taker) if one))

    def _some(self, members: Team) -> Slice:
        one = members[int(self.rng.integers(len(members)))]
        counts = sorted({one.devices, max(1, one.devices // 2), 1}, reverse=True)
        return Slice(one.node, counts[int(self.rng.integers(len(counts)))])

    def _two(self, layout: Layout) -> tuple[int, int]:
        """Two teams, mostly in the same region."""
        first = int(self.rng.integers(len(layout)))
        near = [i for i, one in enumerate(layout) if i != first and self._region(one) == self._region(layout[first])]
        if near and self.rng.random() < 0.7:
            return first, near[int(self.rng.integers(len(near)))]
        second = int(self.rng.integers(len(layout) - 1))
        return first, second + (second >= first)

    def _region(self, members: Team) -> str:
        return self.fleet.region_of[self.fleet.class_of[members[0].node]]


def mosaic(fleet: Fleet, layouts: Sequence[Scored]) -> Layout:
    """From each region the teams of that layout in which they are worth most, as far as teams keep to one region."""
    best: dict[str, tuple[float, Layout]] = {}
    for one in layouts:
        for region, (value, teams) in _by_region(fleet, one).items():
            if value > best.get(region, (-1.0, ()))[0]:
                best[region] = (value, teams)
    return tuple(members for _, teams in best.values() for members in teams)


def _by_region(fleet: Fleet, scored: Scored) -> dict[str, tuple[float, Layout]]:
    """Of the regions whose machines work with no other region's: what their teams are worth."""
    found: dict[str, tuple[float, Layout]] = {}
    mixed: set[str] = set()
    for members, replica in zip(scored.layout, scored.replicas, strict=True):
        regions = {fleet.region_of[fleet.class_of[one.node]] for one in members}
        mixed |= regions if len(regions) > 1 else set()
        region = min(regions)
        value, teams = found.get(region, (0.0, ()))
        found[region] = (value + (replica.value if replica else 0.0), (*teams, members))
    return {region: both for region, both in found.items() if region not in mixed}


def _without(layout: Sequence[Team], *indices: int) -> Layout:
    return tuple(one for index, one in enumerate(layout) if index not in indices)


def _halves(members: Team) -> tuple[list[Slice], list[Slice]]:
    first = [Slice(one.node, one.devices - one.devices // 2) for one in members]
    second = [Slice(one.node, one.devices // 2) for one in members if one.devices > 1]
    return first, second


def _take(members: Team, gone: Slice) -> Team:
    left = [Slice(one.node, one.devices - (gone.devices if one.node == gone.node else 0)) for one in members]
    return team(one for one in left if one.devices > 0)
