"""From a layout downhill: machines change places, spares come in, cuts shift, replicas go. Annealing on the step time.

Equal inputs and generator give an equal result; the budget is a number of prices.
"""

from collections.abc import Callable
from math import log

import numpy as np

from muster.plan.train.cuts import best_cuts
from muster.plan.train.dtfm.problem import Ints
from muster.plan.train.price import Layout, Priced, Prices

HOT, COLD = 0.02, 0.0005
"""Temperatures as shares of the step time."""
Move = Callable[["Walk"], Layout | None]


class Walk:
    def __init__(self, prices: Prices, start: Priced, rng: np.random.Generator) -> None:
        self.prices, self.rng = prices, rng
        self.here = self.best = start

    def run(self, steps: int, out_of_time: Callable[[], bool] = lambda: False) -> Priced:
        """The best layout met."""
        for step in range(steps):
            if step % 32 == 0 and out_of_time():
                break
            temperature = HOT * (COLD / HOT) ** (step / steps) * self.best.energy
            self._step(temperature)
        return self.best

    def _step(self, temperature: float) -> None:
        move = MOVES[int(self.rng.choice(len(MOVES), p=WEIGHTS))]
        layout = move(self)
        if layout is None:
            return
        priced = self.prices.priced(layout, self.here)
        if priced is None or priced.energy > self.here.energy - temperature * log(1.0 - self.rng.random()):
            return
        self.here = priced
        if priced.energy < self.best.energy * (1 - 1e-12):
            self.best = priced

    def pick(self, count: int) -> int:
        return int(self.rng.integers(count))

    @property
    def grid(self) -> Ints:
        return self.here.layout.grid

    def spares(self) -> Ints:
        free = np.ones(self.prices.fleet.count, dtype=bool)
        free[self.grid] = False
        return np.flatnonzero(free)

    def changed(self, grid: Ints) -> Layout:
        return Layout(grid, self.here.layout.cuts)


def swap_two(walk: Walk) -> Layout | None:
    """Two machines change places."""
    grid = walk.grid.copy()
    a, b = walk.pick(grid.size), walk.pick(grid.size)
    if a == b:
        return None
    grid.flat[a], grid.flat[b] = grid.flat[b], grid.flat[a]
    return walk.changed(grid)


def swap_in_stage(walk: Walk) -> Layout | None:
    """Two replicas change machines over some neighbouring stages; who holds what stays."""
    replicas, stages = walk.grid.shape
    if replicas < 2:
        return None
    grid = walk.grid.copy()
    one, two = walk.pick(replicas), walk.pick(replicas)
    begin, end = sorted((walk.pick(stages), walk.pick(stages)))
    rows = [one, two]
    grid[rows, begin : end + 1] = grid[rows[::-1], begin : end + 1]
    return walk.changed(grid)


def swap_in_replica(walk: Walk) -> Layout | None:
    """Two stages of one replica change machines."""
    replicas, stages = walk.grid.shape
    grid = walk.grid.copy()
    row, i, j = walk.pick(replicas), walk.pick(stages), walk.pick(stages)
    if i == j:
        return None
    grid[row, [i, j]] = grid[row, [j, i]]
    return walk.changed(grid)


def swap_stages(walk: Walk) -> Layout | None:
    """Two stages change machines in all replicas, or a stretch of the path turns round."""
    stages = walk.here.layout.stages
    i, j = sorted((walk.pick(stages), walk.pick(stages)))
    if i == j:
        return None
    grid = walk.grid.copy()
    if walk.pick(2):
        grid[:, [i, j]] = grid[:, [j, i]]
    else:
        grid[:, i : j + 1] = grid[:, i : j + 1][:, ::-1]
    return walk.changed(grid)


def swap_spare(walk: Walk) -> Layout | None:
    spares = walk.spares()
    if not len(spares):
        return None
    grid = walk.grid.copy()
    grid.flat[walk.pick(grid.size)] = spares[walk.pick(len(spares))]
    return walk.changed(grid)


def shift_cut(walk: Walk) -> Layout | None:
    """One layer goes to the neighbouring stage."""
    layout = walk.here.layout
    if layout.stages == 1:
        return None
    cuts = list(layout.cuts)
    which = 1 + walk.pick(layout.stages - 1)
    cuts[which] += 1 if walk.pick(2) else -1
    if not cuts[which - 1] < cuts[which] < cuts[which + 1]:
        return None
    return Layout(layout.grid, tuple(cuts))


def drop_replica(walk: Walk) -> Layout | None:
    """A machine that hurts goes with its replica."""
    replicas = walk.here.layout.replicas
    if replicas < 2:
        return None
    return _recut(walk, np.delete(walk.grid, walk.pick(replicas), axis=0))


def add_replica(walk: Walk) -> Layout | None:
    spares = walk.spares()
    stages = walk.here.layout.stages
    if len(spares) < stages:
        return None
    return _recut(walk, np.vstack([walk.grid, walk.rng.permutation(spares)[:stages]]))


def recut(walk: Walk) -> Layout | None:
    """The cuts that are best for the slowest stage."""
    return _recut(walk, walk.grid)


def _recut(walk: Walk, grid: Ints) -> Layout | None:
    cuts = best_cuts(walk.prices, grid)
    return None if cuts is None else Layout(grid, cuts)


_SHARES: dict[Move, float] = {
    swap_two: 0.35,
    swap_in_stage: 0.2,
    swap_in_replica: 0.1,
    swap_stages: 0.07,
    swap_spare: 0.13,
    shift_cut: 0.1,
    drop_replica: 0.02,
    add_replica: 0.02,
    recut: 0.01,
}
MOVES = list(_SHARES)
WEIGHTS = np.array(list(_SHARES.values()))
