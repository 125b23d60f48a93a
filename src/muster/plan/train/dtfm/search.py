"""Data x pipeline parallel placement by DT-FM's objective: structured starts, annealing, a bound that says when to end.

The same problem, seed and options give the same plan: the budget is counted in steps, not seconds. A caller with a
clock passes `out_of_time`; the result then says whether it was cut short, and only then may two runs differ.

Every start that a structured layout offers is priced. Then come rounds of walks, most of which begin at random runs of
stages, each with other lengths than the one before, and some at the best of those layouts; at the end of a round a
longer one from the best that they met. A plan that meets the lower bound is optimal and ends the search, and
so do rounds that find nothing better.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle

import numpy as np

from muster.plan.train.dtfm.anneal import Runs, Schedule, anneal, path_of, runs_of, runs_s
from muster.plan.train.dtfm.bound import lower_bound
from muster.plan.train.dtfm.costs import Column, Costs
from muster.plan.train.dtfm.fill import possible_widths, random_runs
from muster.plan.train.dtfm.objective import Placement, evaluate, shortest_path
from muster.plan.train.dtfm.problem import Partition, TrainProblem
from muster.plan.train.dtfm.seeds import structured

FROM_STRUCTURED = 4
"""Every so many walks begin at a structured layout."""


@dataclass(frozen=True)
class SearchOptions:
    rounds: int = 4
    patience: int = 2
    """So many rounds without anything better end the search."""
    walks: int = 20
    """Short ones, in each round."""
    schedule: Schedule = field(default_factory=lambda: Schedule(steps=4_000))
    """Of each of these."""
    refining: Schedule = field(default_factory=lambda: Schedule(steps=16_000))
    """Of the longer one."""


@dataclass(frozen=True)
class FoundPlacement:
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
) -> FoundPlacement:
    """The best placement that the budget finds."""
    rng, costs = np.random.default_rng(seed), Costs(problem)
    bound_s = lower_bound(problem)
    starts = ranked(costs, structured(problem))
    best = ordered(costs, starts[0])
    done, idle, stopped = 0, 0, False
    walks = _walks(costs, starts, rng)
    while done < options.rounds and idle < options.patience and not optimal(costs, best, bound_s) and not stopped:
        looked = [anneal(costs, next(walks), options.schedule, rng, out_of_time) for _ in range(options.walks)]
        looked.append(anneal(costs, _best(costs, looked), options.refining, rng, out_of_time))
        found = ordered(costs, _best(costs, looked))
        if runs_s(costs, found) < runs_s(costs, best) * (1 - 1e-9):
            best, idle = found, 0
        else:
            idle += 1
        done, stopped = done + 1, out_of_time()
    return FoundPlacement(evaluate(problem, machines(costs, path_of(best))), bound_s, done, not stopped)


def _best(costs: Costs, found: Iterable[Runs]) -> Runs:
    return min(found, key=lambda runs: runs_s(costs, runs))


def _walks(costs: Costs, starts: Sequence[Runs], rng: np.random.Generator) -> Iterator[Runs]:
    """Where one walk after the other begins."""
    layouts, lengths = cycle(starts), cycle(possible_widths(costs, rng))
    while True:
        for _ in range(FROM_STRUCTURED - 1):
            yield random_runs(costs, next(lengths), rng)
        yield next(layouts)


def optimal(costs: Costs, runs: Runs, bound_s: float) -> bool:
    return runs_s(costs, runs) <= bound_s * (1 + 1e-9)


def ranked(costs: Costs, partitions: Iterable[Partition]) -> list[Runs]:
    """Distinct plans, the cheapest first."""
    plans = dict.fromkeys(runs_of(costs.of_group(group) for group in partition) for partition in partitions)
    return sorted(plans, key=lambda runs: runs_s(costs, runs))


def ordered(costs: Costs, runs: Runs) -> Runs:
    """The same stages in the cheapest order (eq. 4)."""
    path = path_of(runs)
    weights = np.array([[costs.edge(one, two).slowest_s for two in path] for one in path])
    return runs_of(path[index] for index in shortest_path(weights)[1])


def machines(costs: Costs, path: Sequence[Column]) -> Partition:
    """Some machines of the right kinds for each stage; which of a kind does not matter."""
    left: dict[int, list[int]] = {}
    for machine in range(costs.problem.count - 1, -1, -1):
        left.setdefault(costs.kinds[machine], []).append(machine)
    return tuple(
        tuple(left[kind].pop() for kind, count in sorted(column.mix.items()) for _ in range(count)) for column in path
    )
