"""Simulated annealing over paths of runs: who holds which stage, and in which order the stages follow each other.

Good plans are a few *runs* of stages with equal mixes (pipelines that stay inside their regions), joined by a few slow
edges; changing one stage of a run alone only makes things worse. So the state is the order of the runs with the mix and
the number of stages of each. How long the runs are stays as it is given: a walk is short, and there are only 18 lists
of at most five lengths for 8 stages, so that the search can take one walk after the other. A move exchanges two kinds
between two or three whole runs (`trades`), reverses a stretch of the path, or puts a run elsewhere. Where no two
machines are alike all runs have one stage.

The objective is made of maxima and so mostly flat; a small share of the means beside it shows the way down.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise
from math import log
from typing import NamedTuple

import numpy as np

from muster.plan.train.dtfm.costs import Column, Costs, Edge
from muster.plan.train.dtfm.trades import Trade, trades

REORDERED = 0.12
"""Share of moves that change the order of the runs; the rest are trades."""
MULTIPLES = 0.2
"""Share of trades that move several machines at once for each one in the trade."""


class Run(NamedTuple):
    """Stages that follow each other and have equal mixes."""

    column: Column
    width: int


Runs = tuple[Run, ...]
Path = tuple[Column, ...]


@dataclass(frozen=True)
class Schedule:
    """How hot, how long."""

    steps: int
    hot: float = 0.01
    """Temperature at the start as a share of the cost of the first path."""
    cold: float = 0.001
    means: float = 0.2
    """Share of the means in what is minimised."""


def uniforms(rng: np.random.Generator) -> Iterator[float]:
    """Numbers in [0, 1), drawn in blocks because single draws are slow."""
    while True:
        yield from rng.random(4096).tolist()


def runs_of(path: Iterable[Column]) -> Runs:
    """Equal stages that follow each other, put together."""
    return tuple(Run(column, len(list(alike))) for column, alike in groupby(path))


def path_of(runs: Iterable[Run]) -> Path:
    return tuple(run.column for run in runs for _ in range(run.width))


def runs_s(costs: Costs, runs: Runs) -> float:
    """DataP + PipelineP along this order of the stages."""
    within = sum((run.width - 1) * costs.edge(run.column, run.column).slowest_s for run in runs if run.width > 1)
    between = sum(costs.edge(one.column, two.column).slowest_s for one, two in pairwise(runs))
    return max(run.column.data_s for run in runs) + within + between


class Walk:
    """One state that moves."""

    def __init__(self, costs: Costs, runs: Runs, means: float, draw: Iterator[float]) -> None:
        self.costs, self.means, self.draw = costs, means, draw
        self.columns, self.widths = [run.column for run in runs], [run.width for run in runs]
        self.stages = sum(self.widths)
        self.energy = self._energy(self.columns, self.widths, float("inf"))

    @property
    def runs(self) -> Runs:
        return tuple(map(Run, self.columns, self.widths))

    def _hop_energy(self, hop: Edge) -> float:
        return hop[0] + self.means * (hop[1] - hop[0])

    def _energy(self, columns: list[Column], widths: list[int], limit: float) -> float:
        """What is minimised; anything beyond `limit` if it is, so that few matchings have to be worked out."""
        edge, least_edge, energy_of = self.costs.edge, self.costs.least_edge, self._hop_energy
        slowest = max([column.data_s for column in columns])
        mean = sum([column.data_s * width for column, width in zip(columns, widths, strict=True)]) / self.stages
        energy = slowest + self.means * (mean - slowest)
        for column, width in zip(columns, widths, strict=True):
            if width > 1:
                energy += (width - 1) * energy_of(edge(column, column))
        least = []
        for one, two in pairwise(columns):
            if energy > limit:
                return energy
            least.append(energy_of(least_edge(one, two)))
            energy += least[-1]
        for at_least, (one, two) in zip(least, pairwise(columns), strict=True):
            if energy > limit:
                return energy
            energy += energy_of(edge(one, two)) - at_least
        return energy

    def step(self, temperature: float) -> bool:
        """Try one move; whether it was made. How much worse it may be is drawn first."""
        moved = self._reordered() if next(self.draw) < REORDERED else self._traded()
        if moved is None:
            return False
        columns, widths = moved
        limit = self.energy - temperature * log(1.0 - next(self.draw))
        energy = self._energy(columns, widths, limit)
        if energy > limit:
            return False
        self.columns, self.widths, self.energy = columns, widths, energy
        return True

    def _traded(self) -> tuple[list[Column], list[int]] | None:
        """One kind for another in two or three runs; None if they have too few machines for it."""
        draw, (twos, threes) = self.draw, trades(tuple(self.widths))
        able = threes if threes and next(draw) < 0.5 else twos
        if not able:
            return None
        trade = able[int(next(draw) * len(able))]
        givers, takers = self._kinds(trade, -1), self._kinds(trade, 1)
        if not givers or not takers:
            return None
        gone, come = givers[int(next(draw) * len(givers))], takers[int(next(draw) * len(takers))]
        if gone == come:
            return None
        times = self._times(trade, gone, come) if next(draw) < MULTIPLES else 1
        columns = self.columns.copy()
        for run, more in trade:
            one, two = (gone, come) if more < 0 else (come, gone)
            columns[run] = self.costs.exchange(columns[run], one, two, times * abs(more))
        return columns, self.widths

    def _kinds(self, trade: Trade, sign: int) -> list[int]:
        """Kinds of which all runs on one side of the trade have enough: those that get (1) or those that give (-1)."""
        (first, count), *others = [(self.columns[run].mix, sign * more) for run, more in trade if sign * more > 0]
        kinds = [kind for kind, there in first.items() if there >= count]
        for mix, some in others:
            kinds = [kind for kind in kinds if mix.get(kind, 0) >= some]
        return kinds

    def _times(self, trade: Trade, gone: int, come: int) -> int:
        most = min([self.columns[run].mix[gone if more < 0 else come] // abs(more) for run, more in trade])
        return 1 + int(next(self.draw) * most)

    def _reordered(self) -> tuple[list[Column], list[int]] | None:
        """A stretch of the path reversed, or one run put elsewhere."""
        count = len(self.columns)
        i, j = int(next(self.draw) * count), int(next(self.draw) * count)
        if i == j:
            return None
        columns, widths = self.columns.copy(), self.widths.copy()
        if next(self.draw) < 0.5:
            i, j = min(i, j), max(i, j)
            columns[i : j + 1], widths[i : j + 1] = columns[i : j + 1][::-1], widths[i : j + 1][::-1]
        else:
            columns.insert(j, columns.pop(i))
            widths.insert(j, widths.pop(i))
        return columns, widths


def anneal(
    costs: Costs,
    runs: Runs,
    schedule: Schedule,
    rng: np.random.Generator,
    out_of_time: Callable[[], bool] = lambda: False,
) -> Runs:
    """The best runs met on a walk from `runs` that cools down."""
    walk = Walk(costs, runs, schedule.means, uniforms(rng))
    best, best_s = runs, runs_s(costs, runs)
    hot = temperature = schedule.hot * best_s
    for step in range(schedule.steps):
        if step % 64 == 0:
            if out_of_time():
                break
            temperature = hot * (schedule.cold / schedule.hot) ** (step / schedule.steps)
        if walk.step(temperature) and walk.energy < best_s:
            now_s = runs_s(costs, walk.runs)
            if now_s < best_s * (1 - 1e-12):
                best, best_s = walk.runs, now_s
    return best
