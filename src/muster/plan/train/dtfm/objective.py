"""DT-FM's objective, equations 1 to 4, exactly: the cost of a partition of the machines into stages.

    COMM = DataP + PipelineP                                                                              (eq. 1)
    DataP = max over groups C, max over d in C, of sum over d' in C \\ d of 2 (alpha + c_dp / (D_DP beta))  (eq. 2)
    w(C, C') = min over perfect matchings M of max over (d, d') in M of 2 (alpha + c_pp / beta)           (eq. 3)
    PipelineP = the cheapest Hamiltonian path over the groups with edge weights w                         (eq. 4)

Both inner problems are solved to optimality: the matching by raising a threshold and augmenting, the path by Held-Karp.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from muster.errors import InvalidRequest
from muster.plan.train.dtfm.matching import Matching, Reach
from muster.plan.train.dtfm.problem import Floats, Group, Ints, Partition, TrainProblem

MAX_STAGES = 16
"""Held-Karp keeps a table of 2^stages x stages."""


@dataclass(frozen=True)
class Cost:
    """Seconds of communication in one training step."""

    data_parallel_s: float
    pipeline_s: float

    @property
    def total_s(self) -> float:
        return self.data_parallel_s + self.pipeline_s


@dataclass(frozen=True)
class Placement:
    """`grid[replica][stage]` is the machine that runs this stage of this replica; each row is one pipeline."""

    grid: tuple[tuple[int, ...], ...]
    cost: Cost


def evaluate(problem: TrainProblem, partition: Partition) -> Placement:
    """The cost of `partition` (eqs. 1 to 4), with the stage order and the pipelines that reach it."""
    weights = np.zeros((problem.stages, problem.stages))
    for i, first in enumerate(partition):
        for j, second in enumerate(partition[:i]):
            weights[i, j] = weights[j, i] = bottleneck(problem.pipeline_s[np.ix_(first, second)])[0]
    pipeline_s, order = shortest_path(weights)
    cost = Cost(max(data_parallel(problem, group) for group in partition), pipeline_s)
    return Placement(pipelines(problem, [partition[index] for index in order]), cost)


def data_parallel(problem: TrainProblem, group: Group) -> float:
    """DataP of one group (eq. 2): the machine that waits longest for the others' shards."""
    return float(problem.data_parallel_s[np.ix_(group, group)].sum(axis=1).max())


def pipelines(problem: TrainProblem, ordered: Sequence[Group]) -> tuple[tuple[int, ...], ...]:
    """Who talks to whom: rows that follow a bottleneck matching from each group to the next."""
    columns = [ordered[0]]
    for group in ordered[1:]:
        _, partners = bottleneck(problem.pipeline_s[np.ix_(columns[-1], group)])
        columns.append(tuple(group[partner] for partner in partners))
    return tuple(zip(*columns, strict=True))


def bottleneck(seconds: Floats) -> tuple[float, tuple[int, ...]]:
    """The perfect matching whose slowest pair is as fast as possible: its slowest pair, each row's column (eq. 3)."""
    size = len(seconds)
    values = np.unique(seconds)
    ranks = np.full((2 * size, 2 * size), len(values))
    ranks[:size, size:] = np.searchsorted(values, seconds)
    one, two = dict.fromkeys(range(size), 1), {size + column: 1 for column in range(size)}
    matching = Matching(Reach(ranks.tolist()), one, two)
    partners = [next(b for b, count in matching.pairs[row].items() if count) - size for row in range(size)]
    return float(values[matching.threshold]), tuple(partners)


def shortest_path(weights: Floats) -> tuple[float, tuple[int, ...]]:
    """The cheapest path through all nodes from any start to any end (eq. 4, Held-Karp): its length and its nodes."""
    count = len(weights)
    if count > MAX_STAGES:
        raise InvalidRequest(f"DT-FM's objective asks for the best order of {count} stages; give at most {MAX_STAGES}.")
    best = np.full((1 << count, count), np.inf)
    best[1 << np.arange(count), np.arange(count)] = 0.0
    for sets, ends, before in _levels(count):
        best[sets, ends] = (best[before] + weights[ends]).min(axis=1)
    last = int(best[-1].argmin())
    length, visited, path = float(best[-1, last]), (1 << count) - 1, [last]
    while len(path) < count:
        visited &= ~(1 << path[-1])
        path.append(int((best[visited] + weights[path[-1]]).argmin()))
    return length, tuple(path[::-1])


@lru_cache(maxsize=8)
def _levels(count: int) -> tuple[tuple[Ints, Ints, Ints], ...]:
    """Per size of set from 2: every (set, end in it, set without that end)."""
    sets = np.arange(1 << count, dtype=np.int64)
    member = (sets[:, None] >> np.arange(count)) & 1
    sizes = member.sum(axis=1)
    levels = []
    for size in range(2, count + 1):
        rows, ends = np.nonzero(member * (sizes == size)[:, None])
        levels.append((rows, ends, rows & ~(np.int64(1) << ends)))
    return tuple(levels)
