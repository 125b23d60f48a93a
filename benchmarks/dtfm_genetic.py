"""The published search, as a yardstick: DT-FM's genetic algorithm with cyclic local search, 5,000 evaluations.

Written anew from the paper (arXiv 2206.01288, section 3.3) and its scheduler (github.com/DS3Lab/DT-FM at cda948f,
`GCMA`): 100 random partitions, two random parents, the labels of five random machines copied from one parent into the
other, sizes repaired by index, one pass of cyclic moves by the gain on the fastest link inside a group, the exact
objective for every child, the best partition ever met as the result.

Twice: as published, or corrected, where the code does not do what the paper says:

    acceptance       `max(score_1, child > score_2)` compares with a boolean. As published, the child replaces the worse
                     parent if it is no worse than the first one; corrected, if it is no worse than the worse parent
    best prefix      how many cycles to keep: as published the last one is never considered
    end of a pass    a cycle that runs into a group without a free machine counts as a visit of its start

Both times one seeded generator draws (`np.random.seed = i` overwrote the function instead of calling it, so the
original cannot be repeated), what loses is dropped instead of kept in lists that no draw reads, and any counts will do
instead of 64 machines and 8 x 8 tasks.

The gain of moving v from its group to group P is: mean of w(v, P) - min of w(v, own group) (seconds of pipeline).
"""

from dataclasses import dataclass

import numpy as np

from muster.plan.train.dtfm.costs import Costs
from muster.plan.train.dtfm.objective import Placement, evaluate
from muster.plan.train.dtfm.problem import Floats, Ints, Partition, TrainProblem

POINTS = 5


@dataclass(frozen=True)
class GeneticOptions:
    population: int = 100
    evaluations: int = 5000
    """Children and first population together."""
    as_published: bool = False
    """With the slips of the published code."""


def genetic(problem: TrainProblem, seed: int, options: GeneticOptions = GeneticOptions()) -> Placement:
    """The best partition that the published search meets."""
    rng, costs = np.random.default_rng(seed), Costs(problem)
    own = np.repeat(np.arange(problem.stages), problem.replicas)
    population = [rng.permutation(own) for _ in range(min(options.population, options.evaluations))]
    scores = [costs.total_s(groups_of(labels, problem.stages)) for labels in population]
    for _ in range(options.evaluations - len(population)):
        one, two = (int(index) for index in rng.integers(len(population), size=2))
        child = crossover(population[one], population[two], problem, rng)
        child = CyclicMoves(problem, child, options.as_published).run()
        score = costs.total_s(groups_of(child, problem.stages))
        worse = one if scores[one] > scores[two] else two
        if accepted(score, scores[one], scores[two], options.as_published):
            population[worse], scores[worse] = child, score
    return evaluate(problem, groups_of(population[int(np.argmin(scores))], problem.stages))


def accepted(child_s: float, first_s: float, second_s: float, as_published: bool) -> bool:
    """Whether a child takes the place of its worse parent."""
    return child_s <= (first_s if as_published else max(first_s, second_s))


def groups_of(labels: Ints, stages: int) -> Partition:
    return tuple(tuple(int(machine) for machine in np.flatnonzero(labels == stage)) for stage in range(stages))


def crossover(one: Ints, two: Ints, problem: TrainProblem, rng: np.random.Generator) -> Ints:
    """`two` with five labels of `one`; then machines of overfull groups, by index, to the first that has room."""
    child = two.copy()
    points = rng.permutation(problem.count)[:POINTS]
    child[points] = one[points]
    sizes = np.bincount(child, minlength=problem.stages)
    for machine in range(problem.count):
        if sizes[child[machine]] > problem.replicas:
            room = int(np.argmax(sizes < problem.replicas))
            sizes[child[machine]] -= 1
            sizes[room] += 1
            child[machine] = room
    return child


class CyclicMoves:
    """One pass of cycles of moves; a machine that has moved stays where it is."""

    def __init__(self, problem: TrainProblem, labels: Ints, as_published: bool = False) -> None:
        self.as_published = as_published
        self.stages, self.count = problem.stages, problem.count
        self.groups = np.arange(problem.stages)
        self.labels = labels.copy()
        self.free = np.ones(problem.count, dtype=bool)
        self.visited: set[int] = set()
        self.to = problem.pipeline_s
        self.mates = problem.pipeline_s + np.diag(np.full(problem.count, np.inf))

    def run(self) -> Ints:
        """The labels after the best number of cycles."""
        kept, gains = [self.labels.copy()], [0.0]
        for _ in range(self.stages):
            gains.append(gains[-1] + self.cycle())
            kept.append(self.labels.copy())
            if len(self.visited) == self.stages or not self.free.any():
                break
        return kept[int(np.argmax(gains[:-1] if self.as_published else gains))]

    def cycle(self) -> float:
        """Chain moves until the start group has its size back; keep the best prefix, closed. Returns its gain."""
        gains, movers = self.gains()
        start = here = int(gains.max(axis=1).argmax())
        moves: list[tuple[int, int]] = []
        made, best_gain, keep = 0.0, 0.0, 0
        before = self.labels.copy()
        for _ in range(self.count):
            mover = movers[here]
            if mover < 0:
                if self.as_published:
                    self.visited.add(start)
                break
            if moves and made + gains[here, start] > best_gain:
                best_gain, keep = made + gains[here, start], len(moves)
            target = int(gains[here].argmax())
            moves.append((mover, here))
            made += gains[here, target]
            self.labels[mover] = target
            self.free[mover] = False
            self.visited.add(target)
            here = target
            if here == start:
                break
            gains, movers = self.gains()
        self.labels = before
        self._close(moves[: keep + 1] if keep else [], start)
        return float(best_gain)

    def _close(self, chain: list[tuple[int, int]], start: int) -> None:
        """Everybody in the chain goes to the next one's group, the last one to the start."""
        for (mover, _), (_, target) in zip(chain, [*chain[1:], (-1, start)], strict=False):
            self.labels[mover] = target

    def gains(self) -> tuple[Floats, list[int]]:
        """Per group the gain of its chosen machine to every other, and that machine (-1: all of them have moved).

        The chosen machine has the fastest link inside its group.
        """
        member = self.labels[:, None] == self.groups
        mean = self.to @ member / np.maximum(member.sum(axis=0), 1)
        own = np.where(member[:, self.labels].T, self.mates, np.inf).min(axis=1)
        candidates = np.where(member & self.free[:, None], own[:, None], np.inf)
        chosen = candidates.argmin(axis=0)
        fastest = candidates[chosen, self.groups]
        movable = np.isfinite(fastest)
        gains = np.full((self.stages, self.stages), -np.inf)
        gains[movable] = mean[chosen[movable]] - fastest[movable, None]
        gains[self.groups, self.groups] = -np.inf
        return gains, [int(machine) if able else -1 for machine, able in zip(chosen, movable, strict=True)]
