"""Runs of stages over connected components: the integer part of the lower bound.

Given components of the machines, how well can a path of so many runs do at most, where all stages of a run have the
same number of machines in each component? A *mix* here is a vector with the number of machines per component.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from muster.plan.train.dtfm.problem import Floats, Ints, TrainProblem
from muster.plan.train.dtfm.seeds import run_widths

MAX_RUNS = 3
"""Beyond that only the counting argument is used."""
MAX_MIXES = 60_000
"""Per component structure; beyond that likewise."""
MAX_FIRST = 2_000
"""Mixes of the first run that are tried where there are three."""


def components(linked: NDArray[np.bool_]) -> Ints:
    """A label per machine, from 0 without gaps, in the order of their first machines."""
    reached = linked | np.eye(len(linked), dtype=bool)
    labels = np.arange(len(linked))
    while True:
        lowest = np.where(reached, labels, len(linked)).min(axis=1)
        if (lowest == labels).all():
            return np.unique(labels, return_inverse=True)[1].astype(np.int64)
        labels = lowest


class Structure:
    """The components at one threshold, and every mix that a stage may have."""

    def __init__(self, problem: TrainProblem, labels: Ints, floor_s: float) -> None:
        self.problem, self.labels, self.floor_s = problem, labels, floor_s
        self.sizes = np.bincount(labels)
        mixes = mixes_of(self.sizes, problem.replicas)
        self.complete = mixes is not None
        if mixes is not None:
            data_s = np.maximum(self._data_parallel(mixes), floor_s)
            by_cost = np.argsort(data_s, kind="stable")
            self.mixes, self.data_s = mixes[by_cost], data_s[by_cost]
            self.place = {mix.tobytes(): index for index, mix in enumerate(self.mixes)}

    def least(self) -> tuple[float, ...]:
        """The least slowest DataP for at most 0, 1, 2, ... edges above the threshold, until it is the floor."""
        found: list[float] = []
        for count in range(1, self.problem.stages + 1):
            splits = (widths for widths in run_widths(self.problem.stages, self.problem.stages) if len(widths) == count)
            found.append(min(self._of_widths(widths) for widths in splits))
            if found[-1] <= self.floor_s * (1 + 1e-9):
                break
        return tuple(found)

    def _of_widths(self, widths: tuple[int, ...]) -> float:
        if not countable(self.sizes.tolist(), widths, self.problem.replicas):
            return np.inf
        if not self.complete or len(widths) > MAX_RUNS:
            return self.floor_s
        return self._fill(self.sizes, widths, np.inf)

    def _data_parallel(self, mixes: Ints) -> Floats:
        """What the cheapest machines for each mix would give (eq. 2)."""
        worst = np.zeros(len(mixes))
        for component in range(len(self.sizes)):
            least = np.full(len(mixes), np.inf)
            for machine in self._one_of_each_kind(component):
                least = np.minimum(least, self._with_nearest(machine, component, mixes))
            worst = np.maximum(worst, np.where(mixes[:, component] > 0, least, 0.0))
        return worst

    def _one_of_each_kind(self, component: int) -> list[int]:
        members = np.flatnonzero(self.labels == component)
        return [int(members[i]) for i in np.unique(self.problem.kinds[members], return_index=True)[1]]

    def _with_nearest(self, machine: int, component: int, mixes: Ints) -> Floats:
        """What this machine pays if all its mates are the cheapest of their components."""
        total = np.zeros(len(mixes))
        for other in range(len(self.sizes)):
            peers = np.flatnonzero((self.labels == other) & (np.arange(self.problem.count) != machine))
            sums = np.concatenate([[0.0], np.cumsum(np.sort(self.problem.data_parallel_s[machine, peers]))])
            wanted = mixes[:, other] - (1 if other == component else 0)
            total += sums[np.clip(wanted, 0, len(sums) - 1)]
        return total

    def _fill(self, sizes: Ints, widths: tuple[int, ...], limit: float) -> float:
        """The least slowest DataP of runs that use up every component; anything from `limit` on may come out as is."""
        width, rest = widths[0], widths[1:]
        if not rest:
            return self._cost_of(sizes, width)
        fits = np.flatnonzero((self.mixes * width <= sizes).all(axis=1))
        if len(rest) == 1:
            left = sizes - width * self.mixes[fits]
            fits = fits[(left % rest[0] == 0).all(axis=1)]
        elif len(fits) > MAX_FIRST:
            return self.floor_s
        best = limit
        for index in fits:
            data_s = float(self.data_s[index])
            if data_s >= best:
                break
            best = min(best, max(data_s, self._fill(sizes - width * self.mixes[index], rest, best)))
        return best

    def _cost_of(self, sizes: Ints, width: int) -> float:
        if (sizes % width).any():
            return np.inf
        index = self.place.get((sizes // width).tobytes())
        return np.inf if index is None else float(self.data_s[index])


def mixes_of(sizes: Ints, total: int) -> Ints | None:
    """Every vector m with 0 <= m <= sizes and sum(m) = total, as rows; None if there are too many."""
    rows, left = np.zeros((1, 0), dtype=np.int64), np.array([total])
    after = np.cumsum(sizes[::-1])[::-1] - sizes
    for size, room in zip(sizes, after, strict=True):
        able = [(left >= take) & (left - take <= room) for take in range(min(int(size), total) + 1)]
        rows = np.concatenate([np.column_stack([rows[ok], np.full(int(ok.sum()), n)]) for n, ok in enumerate(able)])
        left = np.concatenate([left[ok] - n for n, ok in enumerate(able)])
        if len(rows) > MAX_MIXES:
            return None
    return rows.astype(np.int64)


def countable(sizes: list[int], widths: tuple[int, ...], replicas: int) -> bool:
    """Whether components of these sizes can be cut into `replicas` pieces of each width, DataP aside.

    True also where there are too many ways to look at.
    """
    lengths = sorted(set(widths), reverse=True)
    wanted = tuple(replicas * widths.count(length) for length in lengths)
    used = {tuple(0 for _ in lengths)}
    for size in sorted(sizes, reverse=True):
        found = list(ways(size, lengths, wanted))
        totals = {tuple(map(sum, zip(before, way, strict=True))) for before in used for way in found}
        used = {total for total in totals if all(n <= most for n, most in zip(total, wanted, strict=True))}
        if len(used) * len(found) > MAX_MIXES:
            return True
    return wanted in used


def ways(size: int, lengths: list[int], most: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """All ways to cut `size` machines into pieces of these lengths."""
    if not lengths:
        if size == 0:
            yield ()
        return
    for count in range(min(size // lengths[0], most[0]) + 1):
        for rest in ways(size - count * lengths[0], lengths[1:], most[1:]):
            yield (count, *rest)
