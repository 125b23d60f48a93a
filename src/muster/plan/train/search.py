"""Plans for training by step time: structured layouts, the best of them refined, then whole microbatches and codecs.

The same shape, pool, workload, options and seed give the same plan: the budget counts prices, not seconds. A caller
with a clock passes `out_of_time`; only if that cut the search short may two runs differ.

Each machine is one stage, tensor parallel over its devices, or each of its devices is one: both are tried.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from muster.cost.pace import TYPICAL, Constants
from muster.plan.found import Found, Rejected
from muster.plan.train.bound import lower_bound
from muster.plan.train.cuts import best_cuts
from muster.plan.train.explain import check, does_not_fit, explained, why_not
from muster.plan.train.finish import finished_plan
from muster.plan.train.fleet import Fleet
from muster.plan.train.price import Layout, Priced, Prices
from muster.plan.train.starts import Starts, stage_counts
from muster.plan.train.walk import Walk
from muster.sim.train.forecast import train_forecast
from muster.sim.train.pipeline_costs import Exchange
from muster.spec.codec import RAW, Codec
from muster.spec.forecast import TrainForecast
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Plan
from muster.spec.pool import Pool
from muster.spec.workload import TrainWorkload

Clock = Callable[[], bool]


@dataclass(frozen=True, slots=True)
class TrainOptions:
    evaluations: int = 6000
    """Layouts that may be priced in walks downhill; starts come on top."""
    walks: int = 4
    """Starts that are refined, each of another number of replicas or stages."""
    most_stages: int = 64
    codecs: tuple[Codec, ...] = (RAW,)
    """What links between stages may carry (`cost/codec_table.py`); each gets the mildest that keeps the step."""
    exchange: Exchange = "best"
    """How gradients are summed."""


def plan_training(
    shape: ModelShape,
    pool: Pool,
    workload: TrainWorkload = TrainWorkload(),
    options: TrainOptions = TrainOptions(),
    constants: Constants = TYPICAL,
    seed: int = 0,
    out_of_time: Clock = lambda: False,
) -> Found[TrainForecast]:
    """The plan with the shortest step that the budget finds.

    Raises `DoesNotFit` if no layout has the memory, `PoolUnavailable` if nobody is there, `InvalidRequest` on a
    workload that cannot be.
    """
    check(pool, workload)
    strongest = min(options.codecs, key=lambda codec: codec.bits_per_value or 8.0 * 8)
    split = [False, True] if any(node.device_count > 1 for node in pool.nodes) else [False]
    fleets = [Fleet(shape, pool, workload, constants, one, strongest) for one in split]
    searches = [_Search(fleet, options, np.random.default_rng(seed)) for fleet in fleets]
    done = [one.run(out_of_time) for one in searches]
    priced = sorted(
        ((best, one.prices) for one, found in zip(searches, done, strict=True) for best in found),
        key=lambda pair: pair[1].whole(pair[0])[1],
    )
    if not priced:
        raise does_not_fit(fleets[-1])

    def forecast_of(plan: Plan) -> TrainForecast:
        return train_forecast(plan, pool, shape, workload, constants, exchange=options.exchange)

    plans = [
        finished_plan(best, prices, options.codecs, lambda plan: forecast_of(plan).step_s)
        for best, prices in priced[:4]
    ]
    forecasts = [forecast_of(plan) for plan in plans]
    ranked = sorted(zip(plans, forecasts, strict=True), key=lambda pair: pair[1].step_s)
    bound = min(lower_bound(fleet) for fleet in fleets)
    plan, forecast = ranked[0]
    return Found(
        objective="train",
        score=forecast.step_s,
        plan=replace(plan, step_seconds=forecast.step_s, explanation=explained(plan, forecast, pool, bound)),
        forecast=forecast,
        bound=bound,
        alternatives=tuple(Rejected(*pair, why_not(*pair, forecast)) for pair in ranked[1:]),
        evaluations=sum(one.prices.evaluations for one in searches),
        finished=not out_of_time(),
    )


Family = tuple[int, int]
"""Replicas and stages."""


class _Search:
    """On one way to make slots of a pool."""

    def __init__(self, fleet: Fleet, options: TrainOptions, rng: np.random.Generator) -> None:
        self.fleet, self.options, self.rng = fleet, options, rng
        self.prices = Prices(fleet, options.exchange)
        self.best: dict[Family, Priced] = {}

    def run(self, out_of_time: Clock) -> list[Priced]:
        """The best layout of each family, the best first."""
        self._start(out_of_time)
        chosen = self._ranked()[: self.options.walks]
        for start in chosen:
            found = Walk(self.prices, start, self.rng).run(self.options.evaluations // len(chosen), out_of_time)
            self._keep(found)
        return self._ranked()

    def _ranked(self) -> list[Priced]:
        return sorted(self.best.values(), key=lambda priced: priced.energy)

    def _keep(self, priced: Priced) -> None:
        family = priced.layout.replicas, priced.layout.stages
        known = self.best.get(family)
        if known is None or priced.energy < known.energy:
            self.best[family] = priced

    def _start(self, out_of_time: Clock) -> None:
        starts, seen = Starts(self.fleet), set[bytes]()
        for stages in stage_counts(self.fleet, self.options.most_stages):
            for grid in starts.grids(stages):
                key = grid.shape[1].to_bytes(4) + grid.tobytes()
                if key in seen:
                    continue
                seen.add(key)
                cuts = best_cuts(self.prices, grid)
                priced = None if cuts is None else self.prices.priced(Layout(grid, cuts))
                if priced is not None:
                    self._keep(priced)
                if out_of_time() and self.best:
                    return
