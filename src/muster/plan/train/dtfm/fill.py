"""Random plans made of runs: given how long the runs of equal stages shall be, which machines go where?

Not every list of lengths is possible: a kind with a single machine, say, needs a run of one stage. Kinds are cut into
pieces as long as the runs one after the other, by a random depth-first search that remembers what cannot be finished.
"""

from collections.abc import Iterator

import numpy as np

from muster.plan.train.dtfm.anneal import Run, Runs
from muster.plan.train.dtfm.costs import Costs
from muster.plan.train.dtfm.matching import Mix
from muster.plan.train.dtfm.runs import ways
from muster.plan.train.dtfm.seeds import run_widths

Pieces = tuple[int, ...]
"""How many of each length."""

MAX_RUNS = 5
"""More runs than that mean many slow edges; only the list of single stages, which is always possible, has more."""
MAX_TRIED = 3_000
"""Ways to cut one kind, all kinds together; then a list of lengths counts as impossible."""


def possible_widths(costs: Costs, rng: np.random.Generator) -> list[tuple[int, ...]]:
    """Lengths of runs that this fleet can fill, fewest runs first."""
    stages = costs.problem.stages
    lists = [widths for widths in run_widths(stages, stages) if len(widths) <= MAX_RUNS or len(widths) == stages]
    return [widths for widths in sorted(lists, key=len) if _cut(costs, widths, rng) is not None]


def random_runs(costs: Costs, widths: tuple[int, ...], rng: np.random.Generator) -> Runs:
    """Runs of these lengths, with mixes that use every machine; `widths` must be possible."""
    lengths, cut = sorted(set(widths), reverse=True), _cut(costs, widths, rng) or {}
    found = []
    for place, length in enumerate(lengths):
        pieces = rng.permutation(np.repeat(list(cut), [of[place] for of in cut.values()]))
        found += [Run(costs.column(_mix(part)), length) for part in np.split(pieces, widths.count(length))]
    return tuple(found)


def _mix(kinds: np.ndarray) -> Mix:
    return {int(kind): int(count) for kind, count in zip(*np.unique(kinds, return_counts=True), strict=True)}


def _cut(costs: Costs, widths: tuple[int, ...], rng: np.random.Generator) -> dict[int, Pieces] | None:
    """Per kind, how many pieces of each length; None if none was found. Small kinds, which have few ways, go first."""
    lengths = sorted(set(widths), reverse=True)
    sizes = np.bincount(costs.kinds)
    order = np.argsort(sizes + 3 * rng.random(len(sizes)))
    every = {int(size): list(ways(int(size), lengths, (int(size),) * len(lengths))) for size in np.unique(sizes)}
    room: Pieces = tuple(costs.problem.replicas * widths.count(length) for length in lengths)
    dead: set[tuple[int, Pieces]] = set()

    def able(place: int, room: Pieces) -> Iterator[tuple[Pieces, Pieces]]:
        """Ways to cut the kind at this place, and what room each leaves."""
        known = every[int(sizes[order[place]])]
        for index in rng.permutation(len(known)):
            left = tuple(free - count for free, count in zip(room, known[index], strict=True))
            if min(left) >= 0 and (place + 1, left) not in dead:
                yield known[index], left

    path, rooms, trying = [], [room], [able(0, room)]
    for _ in range(MAX_TRIED):
        step = next(trying[-1], None)
        if step:
            path.append(step[0])
            rooms.append(step[1])
            if len(path) == len(order):
                return {int(kind): pieces for kind, pieces in zip(order, path, strict=True)}
            trying.append(able(len(path), step[1]))
        elif path:
            dead.add((len(path), rooms.pop()))
            path.pop()
            trying.pop()
        else:
            return None
    return None
