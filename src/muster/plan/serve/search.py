"""The best way that is known to serve a model on a pool. The same pool, options and seed give the same plan.

sort machines into classes -> layouts (structured, then evolved; all of them for a small fleet)
    -> each team's best pipeline -> forecasts of the best layouts -> the plan, its bound, and what was rejected
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from muster.cost.pace import TYPICAL, Constants
from muster.plan.serve import refusals
from muster.plan.serve.bound import cost_bound, latency_bound, throughput_bound
from muster.plan.serve.evolve import Evolution, Scored
from muster.plan.serve.exact import every_layout, is_small
from muster.plan.serve.fleet import sort_into_classes
from muster.plan.serve.found import Found, Rejected
from muster.plan.serve.job import Job, make_job
from muster.plan.serve.layout import structured
from muster.plan.serve.options import ServeOptions
from muster.plan.serve.pins import Ranges, by_class, checked, together
from muster.plan.serve.realise import realise
from muster.plan.serve.reasons import explain, why_not
from muster.plan.serve.replica import Replicas
from muster.plan.serve.trial import alone_s, rules_of, symmetric, trial
from muster.plan.serve.worth import Worth
from muster.sim.steady import check, serve_forecast
from muster.spec.forecast import ServeForecast
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Plan
from muster.spec.pool import Pool
from muster.spec.workload import ServeWorkload

_FINALISTS = 4
_LEVEL_FINALISTS = 2
_REJECTED = 3
_AS_GOOD = 1e-3
"""Layouts this close to the best count as equal; the simplest of them is taken (for `slo`, the quickest)."""


def plan_serving(
    shape: ModelShape,
    pool: Pool,
    workload: ServeWorkload,
    options: ServeOptions = ServeOptions(),
    constants: Constants = TYPICAL,
    seed: int = 0,
    out_of_time: Callable[[], bool] = lambda: False,
) -> Found:
    """The plan with the best `options.objective`, its forecast, a bound on any plan, and the best plans not chosen.

    Raises `DoesNotFit` (by how much, and what would help), `InvalidRequest` (a pin, a budget or a deadline that no plan
    can meet), `PoolUnavailable`. `seed` feeds the random part of the search; `out_of_time` may cut it short.
    """
    check(workload)
    if options.objective == "slo" and (workload.deadline_s is None or workload.requests_per_s is None):
        raise refusals.nothing_to_meet()
    if not pool.nodes:
        raise refusals.nobody(shape.name)
    search = _Search.of(shape, pool, workload, options, constants)
    evolution = search.evolved(seed, out_of_time)
    if not evolution.population:
        raise search.refusal(seed)
    return search.found(evolution.population, evolution.different(), not evolution.cut_short)


@dataclass
class _Search:
    job: Job
    pool: Pool
    constants: Constants
    worth: Worth
    replicas: Replicas
    ranges: Ranges

    @staticmethod
    def of(
        shape: ModelShape, pool: Pool, workload: ServeWorkload, options: ServeOptions, constants: Constants
    ) -> "_Search":
        ranges = checked(options.pins, shape, pool, workload, options)
        fleet = sort_into_classes(pool, apart=ranges)
        job = make_job(shape, fleet, workload, options, constants)
        worth = Worth(fleet, workload, options, frozenset(by_class(fleet, ranges)))
        worth.check_prices()
        small = options.exhaustive and is_small(fleet)
        return _Search(job, pool, constants, worth, Replicas(job, by_class(fleet, ranges), small), ranges)

    def evolved(self, seed: int, out_of_time: Callable[[], bool]) -> Evolution:
        """The search after its end."""
        fleet = self.job.fleet
        budget = self.job.options.evaluations
        rng = np.random.default_rng(seed)
        evolution = Evolution(fleet, self.replicas, self.worth, rng, out_of_time, budget)
        starts = structured(fleet, self.job.shape.weight_bytes(0, self.job.shape.num_layers))
        if self.replicas.every_order:
            evolution.best_of(every_layout(fleet))
            return evolution
        if self.ranges:
            starts = (together(fleet, self.ranges, layout) for layout in starts)
        evolution.run(starts)
        return evolution

    def refusal(self, seed: int) -> Exception:
        """Why nothing was found: ask again without what the options forbid."""
        options = self.job.options
        if options.pins:
            plan_serving(self.job.shape, self.pool, self.job.workload, replace(options, pins=()), self.constants, seed)
            return refusals.pins_impossible()
        if options.budget_per_hour is not None:
            cheap = replace(options, budget_per_hour=None, objective="cost", max_replicas=1)
            found = plan_serving(self.job.shape, self.pool, self.job.workload, cheap, self.constants, seed)
            nodes = {node.id: node for node in self.pool.nodes}
            used = {stage.node for pipeline in found.plan.pipelines for stage in pipeline.stages}
            return refusals.budget(options.budget_per_hour, sum(nodes[node].price_per_hour or 0.0 for node in used))
        return refusals.does_not_fit(self.job)

    def found(self, scored: Sequence[Scored], different: Sequence[Scored], finished: bool) -> Found:
        """One of the best layouts; the others, and those with other numbers of replicas, are rejected."""
        finalists = [self._forecast(one) for one in (*scored[:_FINALISTS], *self._level())]
        self._check_deadline([plan for plan, _ in finalists])
        rated = [(*self.score(plan, forecast), plan, forecast) for plan, forecast in finalists]
        best = max(self._better(score) for score, *_ in rated)
        rated.sort(key=lambda one: (self._better(one[0]) < best - _AS_GOOD * abs(best), one[1], -self._better(one[0])))
        score, _, plan, forecast = rated[0]
        objective = self.job.options.objective
        others = [self._forecast(one) for one in different if sum(one.used) != len(plan.pipelines)]
        others += [(other, its) for _, _, other, its in rated[1:]]
        rejected = tuple(
            Rejected(other, its, why_not(self.pool, plan, forecast, other, its, objective))
            for other, its in others[:_REJECTED]
        )
        bound = self.bound()
        plan = replace(plan, explanation=explain(self.pool, plan, forecast, objective, score, bound))
        return Found(plan, forecast, objective, score, bound, rejected, self.replicas.designed, finished)

    def _forecast(self, scored: Scored) -> tuple[Plan, ServeForecast]:
        job = self.job
        plan = realise(job.fleet, job.shape, job.options, scored.layout, scored.replicas, scored.used)
        return plan, serve_forecast(plan, self.pool, job.shape, job.workload, self.constants, rules=rules_of(job))

    def score(self, plan: Plan, forecast: ServeForecast) -> tuple[float, float]:
        """The objective's value; and of what less is better among plans that are as good."""
        objective = self.job.options.objective
        if objective == "slo":
            return trial(plan, self.pool, self.job, self.constants)
        if objective == "latency":
            return alone_s(plan, self.pool, self.job, self.constants), _stages(plan)
        if objective == "cost":
            return forecast.capacity_tokens_per_s / max(self.worth.bill(plan), 1e-9), _stages(plan)
        return forecast.capacity_tokens_per_s, _stages(plan)

    def _better(self, score: float) -> float:
        return -score if self.job.options.objective == "latency" else score

    def bound(self) -> float:
        objective = self.job.options.objective
        if objective == "latency":
            return latency_bound(self.job)
        if objective == "cost":
            return cost_bound(self.job)
        if objective == "slo":
            return 1.0
        return throughput_bound(self.job)

    def _level(self) -> list[Scored]:
        """For a deadline, the best symmetric layouts are tried in the simulator beside the others."""
        if self.job.options.objective != "slo" or self.job.options.symmetric or self.ranges:
            return []
        level = replace(self, replicas=Replicas(symmetric(self.job), {}, self.replicas.every_order))
        return level.evolved(0, lambda: False).population[:_LEVEL_FINALISTS]

    def _check_deadline(self, plans: Sequence[Plan]) -> None:
        deadline_s = self.job.workload.deadline_s
        if self.job.options.objective != "slo" or deadline_s is None:
            return
        soonest_s = min(alone_s(plan, self.pool, self.job, self.constants) for plan in plans)
        if soonest_s > deadline_s:
            raise refusals.deadline(deadline_s, soonest_s)


def _stages(plan: Plan) -> int:
    return sum(len(pipeline.stages) for pipeline in plan.pipelines)
