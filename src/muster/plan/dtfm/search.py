"""Data x pipeline parallel placement by DT-FM's objective: structured starts, annealing, a bound that says when to end.

The same problem, seed and options give the same plan: the budget is counted in steps, not seconds. A caller with a
clock passes `out_of_time`; the result then says whether it was cut short, and only then may two runs differ.

Every start that a structured layout offers is priced. Short walks then begin at random partitions and at the best of
those starts in turn, from hot to cold; longer ones begin at the best plan so far, less hot, each where the last one
ended. A plan that meets the lower bound is optimal and ends the search.
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
    walks: int = 10
    """Short ones, to look around."""
    schedule: Schedule = field(default_factory=lambda: Schedule(steps=10_000))
    """Of each of these."""
    refinements: int = 4
    """Longer ones, each from the best so far."""
    refining: Schedule = field(default_factory=lambda: Schedule(steps=25_000, hot=0.03))


@dataclass(frozen=True)
class Found:
    placement: Placement
    bound_s: float
    """No placement is better than this."""
    walks: int
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
    done, stopped = 0, False
    total = options.walks + options.refinements
    while done < total and not optimal(costs, best, bound_s) and not stopped:
        exploring = done < options.walks
        start = (starts[done // 2 % len(starts)] if done % 2 else random_path(costs, rng)) if exploring else best
        path = anneal(costs, start, options.schedule if exploring else options.refining, rng, out_of_time)
        best = min(best, ordered(costs, path), key=lambda one: path_s(costs, one))
        done += 1
        stopped = out_of_time()
    finished = not stopped or done == total
    return Found(evaluate(problem, machines(costs, best)), bound_s, done, finished)


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
