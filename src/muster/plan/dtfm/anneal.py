"""Simulated annealing over paths of columns: who holds which stage, and in which order the stages follow each other.

The state is the order of the stages with the mix of machines of each, so that matchings are always the best ones and
the path is explicit. Good plans are runs of stages with equal mixes (pipelines that stay inside their regions, joined
by a few slow edges), and changing one stage of a run alone only makes things worse. So a move exchanges kinds between
two whole intervals of stages: m1 machines of kind a in each stage of the one against m2 of kind b in each of the other,
with m1 l1 = m2 l2. Other moves reverse a stretch of the path or put a stage elsewhere.

The objective is made of maxima and so mostly flat; a small share of the means beside it shows the way down.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import gcd, log

import numpy as np

from muster.plan.dtfm.costs import Column, Costs, Edge

Path = tuple[Column, ...]
Interval = tuple[int, int]
"""Stages [begin, end)."""

EXCHANGES, REVERSALS = 0.85, 0.08
"""Shares of moves; the rest puts one stage elsewhere."""
SINGLE, RUNS = 0.35, 0.35
"""Shares of exchanges between single stages, and between whole runs of equal stages; the rest has drawn lengths."""


@dataclass(frozen=True)
class Schedule:
    """How hot, how long."""

    steps: int
    hot: float = 0.05
    """Temperature at the start as a share of the cost of the first path."""
    cold: float = 0.001
    means: float = 0.2
    """Share of the means in what is minimised."""


def uniforms(rng: np.random.Generator) -> Iterator[float]:
    """Numbers in [0, 1), drawn in blocks because single draws are slow."""
    while True:
        yield from rng.random(4096).tolist()


def path_s(costs: Costs, path: Sequence[Column]) -> float:
    """DataP + PipelineP along this order of the stages."""
    hops = sum(costs.edge(one, two).slowest_s for one, two in pairwise(path))
    return max(column.data_s for column in path) + hops


class Walk:
    """One state that moves."""

    def __init__(self, costs: Costs, path: Sequence[Column], means: float, draw: Iterator[float]) -> None:
        self.costs, self.means, self.draw = costs, means, draw
        self.columns = list(path)
        self.hops = [costs.edge(one, two) for one, two in pairwise(path)]
        self.energies = [self._hop_energy(hop) for hop in self.hops]
        self.energy = self._data_energy(self.columns) + sum(self.energies)

    @property
    def cost_s(self) -> float:
        """The objective along this order of the stages."""
        return max(column.data_s for column in self.columns) + sum(hop[0] for hop in self.hops)

    def _hop_energy(self, hop: Edge) -> float:
        return hop[0] + self.means * (hop[1] - hop[0])

    def _data_energy(self, columns: list[Column]) -> float:
        seconds = [column.data_s for column in columns]
        slowest = max(seconds)
        return slowest + self.means * (sum(seconds) / len(seconds) - slowest)

    def step(self, temperature: float) -> bool:
        """Try one move; whether it was made.

        How much worse it may be is drawn first, so that a move is given up before its matchings are worked out.
        """
        columns = self._moved()
        if columns is None:
            return False
        limit = self.energy - temperature * log(1.0 - next(self.draw))
        energy, least, before = self._data_energy(columns), [], self.columns
        for i, known in enumerate(self.energies):
            if columns[i] is before[i] and columns[i + 1] is before[i + 1]:
                energy += known
            else:
                least.append((i, self._hop_energy(self.costs.least_edge(columns[i], columns[i + 1]))))
                energy += least[-1][1]
            if energy > limit:
                return False
        if energy > limit:
            return False
        hops, energies = self.hops.copy(), self.energies.copy()
        for i, at_least in least:
            hops[i] = self.costs.edge(columns[i], columns[i + 1])
            energies[i] = self._hop_energy(hops[i])
            energy += energies[i] - at_least
            if energy > limit:
                return False
        self.columns, self.hops, self.energies, self.energy = columns, hops, energies, energy
        return True

    def _moved(self) -> list[Column] | None:
        """The columns after a drawn move; None if it is impossible."""
        chance = next(self.draw)
        if chance < EXCHANGES:
            return self._exchanged(*self._intervals())
        return self._reordered(chance < EXCHANGES + REVERSALS)

    def _exchanged(self, first: Interval, second: Interval) -> list[Column] | None:
        if first[0] < second[1] and second[0] < first[1]:
            return None
        draw, columns = self.draw, self.columns
        lengths = first[1] - first[0], second[1] - second[0]
        shared = gcd(*lengths)
        counts = lengths[1] // shared, lengths[0] // shared
        leavers = [kind for kind, count in columns[first[0]].mix.items() if count >= counts[0]]
        comers = [kind for kind, count in columns[second[0]].mix.items() if count >= counts[1]]
        if not leavers or not comers:
            return None
        a, b = leavers[int(next(draw) * len(leavers))], comers[int(next(draw) * len(comers))]
        if a == b:
            return None
        result = columns.copy()
        for (begin, end), gone, come, count in ((first, a, b, counts[0]), (second, b, a, counts[1])):
            for stage in range(begin, end):
                if columns[stage].mix.get(gone, 0) < count:
                    return None
                result[stage] = self.costs.exchange(columns[stage], gone, come, count)
        return result

    def _intervals(self) -> tuple[Interval, Interval]:
        """Two intervals of stages: single ones, whole runs of equal stages, or of drawn lengths."""
        draw, stages = self.draw, len(self.columns)
        chance = next(draw)
        if chance < SINGLE:
            i, j = int(next(draw) * stages), int(next(draw) * stages)
            return (i, i + 1), (j, j + 1)
        if chance < SINGLE + RUNS:
            return self._run(int(next(draw) * stages)), self._run(int(next(draw) * stages))
        one = two = 1 + int(next(draw) * (stages // 2))
        if next(draw) > 0.7:
            two = 1 + int(next(draw) * (stages // 2))
        i, j = int(next(draw) * (stages - one + 1)), int(next(draw) * (stages - two + 1))
        return (i, i + one), (j, j + two)

    def _run(self, stage: int) -> Interval:
        """The stages around this one that have equal mixes."""
        columns, begin, end = self.columns, stage, stage + 1
        while begin and columns[begin - 1] is columns[stage]:
            begin -= 1
        while end < len(columns) and columns[end] is columns[stage]:
            end += 1
        return begin, end

    def _reordered(self, reverse: bool) -> list[Column] | None:
        """A stretch of the path reversed, or one stage put elsewhere."""
        stages = len(self.columns)
        i, j = int(next(self.draw) * stages), int(next(self.draw) * stages)
        if i == j:
            return None
        columns = self.columns.copy()
        if reverse:
            i, j = min(i, j), max(i, j)
            columns[i : j + 1] = columns[i : j + 1][::-1]
        else:
            columns.insert(j, columns.pop(i))
        return columns


def anneal(
    costs: Costs,
    path: Sequence[Column],
    schedule: Schedule,
    rng: np.random.Generator,
    out_of_time: Callable[[], bool] = lambda: False,
) -> Path:
    """The best path met on a walk from `path` that cools down."""
    walk = Walk(costs, path, schedule.means, uniforms(rng))
    best, best_s = tuple(walk.columns), walk.cost_s
    hot = temperature = schedule.hot * walk.cost_s
    for step in range(schedule.steps):
        if step % 64 == 0:
            if out_of_time():
                break
            temperature = hot * (schedule.cold / schedule.hot) ** (step / schedule.steps)
        if walk.step(temperature) and walk.cost_s < best_s * (1 - 1e-12):
            best, best_s = tuple(walk.columns), walk.cost_s
    return best
