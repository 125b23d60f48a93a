"""A pipeline that trains, in moments, for a pool that must go on: the structured layouts only, none of them refined.

`plan_training` takes its time and finds better ones; a broker must answer while machines come and go.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from muster.cost.pace import Constants
from muster.errors import PoolUnavailable
from muster.plan.train.cuts import best_cuts
from muster.plan.train.explain import check, does_not_fit
from muster.plan.train.finish import finished_plan
from muster.plan.train.fleet import Fleet
from muster.plan.train.price import Layout, Priced, Prices
from muster.plan.train.starts import Starts, stage_counts
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Plan
from muster.spec.pool import Pool
from muster.spec.workload import TrainWorkload

MOST_STAGES = 64


@dataclass(frozen=True, slots=True)
class WantedLayout:
    """What the layout must be."""

    stages: int = 0
    """0 leaves it to the planner."""
    cuts: tuple[int, ...] = ()
    """Layers at which others are cut already: 0 to the number of layers, one more than stages."""
    replicas: int = 0
    """At most; 0 leaves it to the planner."""


def quick_training_plan(
    shape: ModelShape, pool: Pool, workload: TrainWorkload, constants: Constants, wanted: WantedLayout = WantedLayout()
) -> Plan:
    """Raises `DoesNotFit` if no layout has the memory, `PoolUnavailable` if too few machines are here."""
    check(pool, workload)
    fleet = Fleet(shape, pool, workload, constants)
    prices = Prices(fleet)
    counts = _counts(fleet, wanted)
    found = [priced for stages in counts for priced in _layouts(prices, stages, wanted)]
    if not found:
        raise does_not_fit(fleet)
    best = min(found, key=lambda priced: (priced.energy, priced.layout.stages))
    return finished_plan(best, prices, (), lambda plan: best.step_s)


def _counts(fleet: Fleet, wanted: WantedLayout) -> Sequence[int]:
    exact = len(wanted.cuts) - 1 if wanted.cuts else wanted.stages
    if not exact:
        return stage_counts(fleet, MOST_STAGES)
    if fleet.count < exact:
        raise PoolUnavailable(f"{fleet.count} of {exact} machines are here, one for each stage; join more.")
    return [exact]


def _layouts(prices: Prices, stages: int, wanted: WantedLayout) -> list[Priced]:
    found, seen = [], set[bytes]()
    for every in Starts(prices.fleet).grids(stages):
        grid = every[: wanted.replicas] if wanted.replicas else every
        key = np.ascontiguousarray(grid).tobytes()
        if not grid.size or key in seen:
            continue
        seen.add(key)
        cuts = wanted.cuts or best_cuts(prices, grid)
        priced = None if cuts is None else prices.priced(Layout(grid, cuts))
        if priced is not None:
            found.append(priced)
    return found
