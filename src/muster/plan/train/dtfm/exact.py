"""The optimum of small problems by enumeration with pruning: every way to split the machines into stages.

Exact, and exponential: 12 machines in 3 stages of 4 are 5,775 partitions, 12 in 6 stages of 2 are 10,395. Fleets with
many machines of one kind are cheaper, since only mixes are told apart.
"""

from itertools import combinations
from math import factorial

import numpy as np

from muster.errors import InvalidRequest
from muster.plan.train.dtfm.costs import Costs
from muster.plan.train.dtfm.objective import Placement, evaluate
from muster.plan.train.dtfm.problem import Group, Partition, TrainProblem

MAX_PARTITIONS = 200_000


def num_partitions(problem: TrainProblem) -> int:
    """How many ways there are to split the machines into stages, order of stages aside."""
    alike: int = factorial(problem.replicas) ** problem.stages * factorial(problem.stages)
    return factorial(problem.count) // alike


def exact(problem: TrainProblem) -> Placement:
    """The best placement of all."""
    if num_partitions(problem) > MAX_PARTITIONS:
        raise InvalidRequest(
            f"{problem.count} machines in {problem.stages} stages can be split in {num_partitions(problem):.1e} ways; "
            "the exact search is for small fleets, use the annealing search and its lower bound instead."
        )
    return evaluate(problem, _Enumeration(problem).best)


class _Enumeration:
    """Depth first; the machine with the lowest index that is left opens the next group."""

    def __init__(self, problem: TrainProblem) -> None:
        self.problem, self.costs = problem, Costs(problem)
        self.best: Partition = ()
        self.best_s = float("inf")
        self.seen: set[tuple[int, ...]] = set()
        others = problem.pipeline_s[~np.eye(problem.count, dtype=bool)]
        self.hops_s = (problem.stages - 1) * float(others.min()) if problem.stages > 1 else 0.0
        self._extend((), tuple(range(problem.count)))

    def _extend(self, groups: tuple[Group, ...], left: Group) -> None:
        if not left:
            self._offer(groups)
            return
        tried: set[int] = set()
        for others in combinations(left[1:], self.problem.replicas - 1):
            group = (left[0], *others)
            column = self.costs.of_group(group)
            if column.index in tried or column.data_s + self.hops_s >= self.best_s:
                continue
            tried.add(column.index)
            gone = set(group)
            self._extend((*groups, group), tuple(machine for machine in left if machine not in gone))

    def _offer(self, groups: tuple[Group, ...]) -> None:
        key = tuple(sorted(self.costs.of_group(group).index for group in groups))
        if key in self.seen:
            return
        self.seen.add(key)
        total_s = self.costs.total_s(groups)
        if total_s < self.best_s:
            self.best, self.best_s = groups, total_s
