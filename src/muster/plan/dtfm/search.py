"""Data x pipeline parallel placement by DT-FM's objective: structured starts, annealing, a bound that says when to end.

The same problem, seed and options give the same plan: the budget is counted in steps, not seconds. A caller with a
clock passes `out_of_time`; the result then says whether it was cut short, and only then may two runs differ.

Every start that a structured layout offers is priced. Then come rounds: some short walks, which begin at random
partitions and at the best of those starts in turn, and a longer, less hot one from the best that they met. A plan that
meets the lower bound is optimal and ends the search, and so do rounds that find nothing better.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from muster.plan.dtfm.anneal import Path, Schedule, anneal, path_s
from muster.plan.dtfm.bound import lower_bound
from muster.plan.dtfm.costs import Column, Costs
from muster.plan.dtfm.objective import Placement, evaluate, shortest_path
from muster.plan.dtfm.problem import Partition, TrainProblem
from muster.plan.dtfm.seeds import structured


@dataclass(frozen=True)
class SearchOptions:
    rounds: int = 8
    patience: int = 2
    """So many rounds without anything better end the search; twice as many once a structured layout was beaten."""
    walks: int = 5
    """Short ones, in each round."""
    schedule: Schedule = field(default_factory=lambda: Schedule(steps=10_000))
    """Of each of these."""
    refining: Schedule = field(default_factory=lambda: Schedule(steps=25_000, hot=0.03))
    """Of the longer one."""


@dataclass(frozen=True)
class Found:
    placement: Placement
    bound_s: float
    """No placement is better than this."""
    rounds: int
    finished: bool
    """False if `out_of_time` cut the search short."""

    @property
    def gap(self) -> float:
        """How far above the bound, as a share of it; zero means optimal."""
        total_s = self.placement.cost.total_s
        if total_s <= self.bound_s:
            return 0.0
        return total_s / self.bound_s - 1.0 if self.bound_s else float("inf")


def search(
    problem: TrainProblem,
    seed: int,
    options: SearchOptions = SearchOptions(),
    out_of_time: Callable[[], bool] = lambda: False,
) -> Found:
    """The best placement that the budget finds."""
    rng, costs = np.random.default_rng(seed), Costs(problem)
    bound_s = lower_bound(problem)
    starts = ranked(costs, structured(problem))
    best = ordered(costs, starts[0])
    done, idle, stopped = 0, 0, False
    patience = options.patience
    while done < options.rounds and idle < patience and not optimal(costs, best, bound_s) and not stopped:
        first = done * options.walks
        looked = [
            anneal(costs, _start(costs, starts, first + walk, rng), options.schedule, rng, out_of_time)
            for walk in range(options.walks)
        ]
        looked.append(anneal(costs, _best(costs, looked), options.refining, rng, out_of_time))
        found = ordered(costs, _best(costs, looked))
        if path_s(costs, found) < path_s(costs, best) * (1 - 1e-9):
            idle, patience = 0, 2 * options.patience
        else:
            idle += 1
        best, done, stopped = _best(costs, [best, found]), done + 1, out_of_time()
    return Found(evaluate(problem, machines(costs, best)), bound_s, done, not stopped)


def _best(costs: Costs, paths: Iterable[Path]) -> Path:
    return min(paths, key=lambda path: path_s(costs, path))


def _start(costs: Costs, starts: Sequence[Path], walk: int, rng: np.random.Generator) -> Path:
    return starts[walk // 2 % len(starts)] if walk % 2 else random_path(costs, rng)


def optimal(costs: Costs, path: Path, bound_s: float) -> bool:
    return path_s(costs, path) <= bound_s * (1 + 1e-9)


def ranked(costs: Costs, partitions: Iterable[Partition]) -> list[Path]:
    """Distinct paths, the cheapest first."""
    paths: dict[tuple[int, ...], Path] = {}
    for partition in partitions:
        path = tuple(costs.of_group(group) for group in partition)
        paths.setdefault(tuple(column.index for column in path), path)
    return sorted(paths.values(), key=lambda path: path_s(costs, path))


def random_path(costs: Costs, rng: np.random.Generator) -> Path:
    problem = costs.problem
    rows = rng.permutation(problem.count).reshape(problem.stages, problem.replicas)
    return tuple(costs.of_group(tuple(map(int, row))) for row in rows)


def ordered(costs: Costs, path: Path) -> Path:
    """The same stages in the cheapest order (eq. 4)."""
    weights = np.array([[0.0 if one is two else costs.edge(one, two).slowest_s for two in path] for one in path])
    for i, one in enumerate(path):
        for j, two in enumerate(path):
            if one is two and i != j:
                weights[i, j] = costs.edge(one, two).slowest_s
    return tuple(path[index] for index in shortest_path(weights)[1])


def machines(costs: Costs, path: Sequence[Column]) -> Partition:
    """Some machines of the right kinds for each stage; which of a kind does not matter."""
    left: dict[int, list[int]] = {}
    for machine in range(costs.problem.count - 1, -1, -1):
        left.setdefault(costs.kinds[machine], []).append(machine)
    return tuple(
        tuple(left[kind].pop() for kind, count in sorted(column.mix.items()) for _ in range(count)) for column in path
    )
