"""Training problems for the planner's benchmark: the published fleets of DT-FM, and fleets of its ten cities."""

from collections.abc import Callable, Sequence

import numpy as np

from muster.plan.train.dtfm.jobs import PUBLISHED_JOB
from muster.plan.train.dtfm.problem import TrainJob, TrainProblem
from muster.spec.fleets import shipped_fleet
from muster.spec.link_table import link_table
from muster.spec.pool import Pool
from muster.spec.pool_file import parse_pool

BEST_KNOWN_S = {1: 3.440, 2: 31.634, 3: 16.087, 4: 34.802, 5: 49.218}
"""DataP + PipelineP of the published fleets in milliseconds' precision, found by annealing from structured layouts
before this planner existed. The paper prints none."""

Sizes = tuple[list[int], list[int]]
"""Cities (indices into the table) and how many machines are in each."""


def published(number: int) -> TrainProblem:
    """Fleet 1 to 5 with the published job."""
    return TrainProblem.of_pool(shipped_fleet(f"dtfm-{number}"), PUBLISHED_JOB)


def of_cities(cities: Sequence[int], sizes: Sequence[int], job: TrainJob = PUBLISHED_JOB) -> TrainProblem:
    """`sizes[i]` machines in city `cities[i]` of the ten."""
    matrix = link_table("ten-cities").matrix
    region = np.repeat(np.array(cities), sizes)
    pick = np.ix_(region, region)
    return TrainProblem(np.array(matrix.latency_s)[pick], np.array(matrix.bandwidth_bytes_per_s)[pick], job)


def irregular(seed: int) -> Sizes:
    """Four to ten of the ten cities, and 64 machines cut at random places into as many parts.

    Drawn again until no part is a multiple of the stage count, so that no region holds whole pipelines only.
    """
    rng = np.random.default_rng(seed)
    return _until_uneven(lambda: _cut(rng))


def _cut(rng: np.random.Generator) -> Sizes:
    machines = PUBLISHED_JOB.stages * PUBLISHED_JOB.replicas
    cities = np.sort(rng.choice(10, int(rng.integers(4, 11)), replace=False))
    cuts = np.sort(rng.choice(np.arange(1, machines), len(cities) - 1, replace=False))
    return cities.tolist(), np.diff([0, *cuts, machines]).tolist()


def scattered(seed: int) -> Sizes:
    """Each of 64 machines in a city drawn from all ten, drawn again likewise.

    The published configuration has such a draw, commented out.
    """
    rng = np.random.default_rng(seed)
    machines = PUBLISHED_JOB.stages * PUBLISHED_JOB.replicas
    return _until_uneven(lambda: (list(range(10)), np.bincount(rng.integers(10, size=machines), minlength=10).tolist()))


def _until_uneven(draw: Callable[[], Sizes]) -> Sizes:
    while True:
        cities, sizes = draw()
        if all(size % PUBLISHED_JOB.stages for size in sizes):
            return cities, sizes


def mixed_pool(machines: int) -> Pool:
    """Four kinds of card in ten cities, about equally many of each."""
    cards, cities = ("rtx-3090", "rtx-4090", "rtx-3080", "a5000"), link_table("ten-cities").matrix.of
    pairs = [(city, card) for city in cities for card in cards]
    counts = [machines // len(pairs) + (index < machines % len(pairs)) for index in range(len(pairs))]
    tables = [
        f'[[machine]]\nname = "{city}-{card}"\ndevice = "{card}"\nregion = "{city}"\ncount = {count}\n'
        for (city, card), count in zip(pairs, counts, strict=True)
        if count
    ]
    return parse_pool('links = "ten-cities"\n' + "".join(tables))
