"""The best way that is known to serve a model on a pool. The same pool, options and seed give the same plan.

sort machines into classes -> layouts (structured, then evolved; all of them for a small fleet)
    -> each team's best pipeline -> forecasts of the best layouts -> the plan, its bound, and what was rejected
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from muster.cost.pace import TYPICAL, Constants
from muster.errors import DoesNotFit
from muster.plan.found import Found, Rejected
from muster.plan.serve import refusals
from muster.plan.serve.bound import cost_bound, latency_bound, throughput_bound
from muster.plan.serve.evolve import Evolution, Scored
from muster.plan.serve.exact import every_layout, is_small
from muster.plan.serve.explain import explain, why_not
from muster.plan.serve.fleet import sort_into_classes
from muster.plan.serve.job import Job, make_job
from muster.plan.serve.layout import structured
from muster.plan.serve.options import ServeOptions
from muster.plan.serve.pins import Ranges, by_class, checked, together
from muster.plan.serve.realise import realise
from muster.plan.serve.replica import Replicas
from muster.plan.serve.trial import Trials, alone_s, rules_of, symmetric
from muster.plan.serve.worth import Worth, unpriced
from muster.sim.serve.forecast import check, serve_forecast
from muster.spec.forecast import ServeForecast
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Plan
from muster.spec.pool import Node, Pool
from muster.spec.workload import ServeWorkload

_FINALISTS = 4
_LEVEL_FINALISTS = 2
_SHARES_OF_AIMS = 0.3, 0.6
"""Of the replicas to design: for the deadline itself, and in all, as each is designed for several deadlines."""
_REJECTED = 3
_CHEAPER, _ROUGH_EVALUATIONS, _A_LITTLE_LESS = 4, 40, 0.999
"""How often, and how hard, something cheaper or faster is looked for, to tell what a budget lacks or a rate exceeds."""
_ROOM_TO_CHOOSE = 3.0
"""Times the weights hold the machines among which the cheapest are looked for."""
_HOPELESS = 10.0
"""So many times the bound of any plan is a rate for which nothing need be looked for."""
_AS_GOOD = 1e-3
"""Layouts this close to the best count as equal; the simplest of them is taken."""


def plan_serving(
    shape: ModelShape,
    pool: Pool,
    workload: ServeWorkload,
    options: ServeOptions = ServeOptions(),
    constants: Constants = TYPICAL,
    seed: int = 0,
    out_of_time: Callable[[], bool] = lambda: False,
) -> Found[ServeForecast]:
    """The plan with the best `options.objective`, its forecast, a bound on any plan, and the best plans not chosen.

    Raises `DoesNotFit` (by how much, and what would help), `InvalidRequest` (a pin, a budget or a deadline that no plan
    can meet), `PoolUnavailable`. `seed` feeds the random part of the search; `out_of_time` may cut it short.
    """
    check(workload)
    if options.objective == "slo" and (workload.deadline_s is None or workload.requests_per_s is None):
        raise refusals.nothing_to_meet()
    if not pool.nodes:
        raise refusals.nobody(shape.name)
    if unknown := unpriced(pool, options):
        rest = replace(pool, nodes=tuple(node for node in pool.nodes if node not in unknown))
        # If the model does not fit without them, the search below asks for their prices.
        with suppress(DoesNotFit):
            return _with_standbys(plan_serving(shape, rest, workload, options, constants, seed, out_of_time), unknown)
    if workload.concurrency is not None:
        options = replace(options, max_batch=min(options.max_batch, workload.concurrency))
    search = _Search.of(shape, pool, workload, options, constants)
    search.check_hopeless(seed)
    evolutions = search.evolved(seed, out_of_time)
    if not evolutions[0].population:
        raise search.refusal(seed)
    if options.objective == "slo":
        return search.in_time(evolutions)
    return search.found(evolutions[0])


def _with_standbys(found: Found[ServeForecast], more: Sequence[Node]) -> Found[ServeForecast]:
    plan, names = found.plan, ", ".join(node.name for node in more)
    says = f"{plan.explanation} {names} stand{'s' if len(more) == 1 else ''} by, because nobody knows a price.".strip()
    standbys = (*plan.standbys, *(node.id for node in more))
    return replace(found, plan=replace(plan, standbys=standbys, explanation=says))


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

    def check_hopeless(self, seed: int) -> None:
        """Raises at once what a long search would come to: a budget or a rate beyond the bound of any plan."""
        options, workload = self.job.options, self.job.workload
        weights = self.job.shape.weight_bytes(0, self.job.shape.num_layers)
        if options.budget_per_hour is not None and self.worth.most_memory(options.budget_per_hour) < weights:
            raise self.refusal(seed)
        rate = workload.requests_per_s
        if (
            options.objective == "slo"
            and rate
            and rate * workload.output_tokens > _HOPELESS * throughput_bound(self.job)
        ):
            evaluations = min(options.evaluations, _ROUGH_EVALUATIONS)
            rough = replace(options, objective="throughput", evaluations=evaluations)
            offline = replace(workload, requests_per_s=None, deadline_s=None)
            found = plan_serving(self.job.shape, self.pool, offline, rough, self.constants, seed)
            raise refusals.rate(rate, found.forecast.capacity_tokens_per_s / workload.output_tokens)

    def evolved(self, seed: int, out_of_time: Callable[[], bool]) -> list[Evolution]:
        """Searches after their end: one, or for a deadline one for each of those around it as well."""
        aims = len(self.job.demand.deadlines_s)
        # Designs are shared, and the first of the aims is what is asked for.
        shares = [1.0] if aims == 1 else list(np.linspace(*_SHARES_OF_AIMS, aims))
        budgets = [round(share * self.job.options.evaluations) for share in shares]
        return [self._evolved(aim, budget, seed, out_of_time) for aim, budget in enumerate(budgets)]

    def _evolved(self, aim: int, budget: int, seed: int, out_of_time: Callable[[], bool]) -> Evolution:
        fleet = self.job.fleet
        rng = np.random.default_rng(seed)
        evolution = Evolution(fleet, self.replicas, self.worth, rng, out_of_time, budget, aim)
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
            evaluations = min(options.evaluations, _ROUGH_EVALUATIONS)
            cheap = replace(
                options, budget_per_hour=None, objective="cost", max_replicas=1, evaluations=evaluations, swap=False
            )
            weights = self.job.shape.weight_bytes(0, self.job.shape.num_layers)
            nodes = self.worth.cheapest(_ROOM_TO_CHOOSE * weights)
            some = replace(self.pool, nodes=nodes)
            try:
                found = plan_serving(self.job.shape, some, self.job.workload, cheap, self.constants, seed)
            except DoesNotFit:
                some = self.pool
                found = plan_serving(self.job.shape, some, self.job.workload, cheap, self.constants, seed)
            least = replace(self, pool=some)._least_bill(found.plan, cheap, seed)
            return refusals.budget(options.budget_per_hour, least)
        return refusals.does_not_fit(self.job)

    def _least_bill(self, plan: Plan, options: ServeOptions, seed: int) -> float:
        """Dollars an hour below which nothing is found: the best ratio, which `plan` has, is not the smallest sum."""
        least = self.worth.bill(plan)
        weights = self.job.shape.weight_bytes(0, self.job.shape.num_layers)
        for _ in range(_CHEAPER):
            below = replace(options, budget_per_hour=_A_LITTLE_LESS * least)
            search = _Search.of(self.job.shape, self.pool, self.job.workload, below, self.constants)
            if search.worth.most_memory(_A_LITTLE_LESS * least) < weights:
                break
            scored = [one for evolution in search.evolved(seed, lambda: False) for one in evolution.population]
            if not scored:
                break
            least = min(self.worth.bill(search._plan(one)) for one in scored)
        return least

    def found(self, evolution: Evolution) -> Found[ServeForecast]:
        """One of the best layouts; the others, and those with other numbers of replicas, are rejected."""
        plans = [self._plan(one) for one in evolution.population[:_FINALISTS]]
        scores = {plan: self.score(plan, self._forecast(plan)) for plan in plans}
        best = max(self._better(score) for score in scores.values())
        enough = best - _AS_GOOD * abs(best)
        plans.sort(key=lambda one: (self._better(scores[one]) < enough, _stages(one), -self._better(scores[one])))
        plan = plans[0]
        others = [self._plan(one) for one in evolution.different() if sum(one.used) != len(plan.pipelines)]
        others = self._unlike(plan, [*others, *plans[1:]])
        return self._chosen(plan, scores[plan], others, not evolution.cut_short)

    def in_time(self, evolutions: Sequence[Evolution]) -> Found[ServeForecast]:
        """The best layouts for this deadline and for those around it, the best symmetric ones too, as simulated."""
        scored = [one for evolution in evolutions for one in evolution.population[:_FINALISTS]]
        plans = list(dict.fromkeys(self._plan(one) for one in (*scored, *self._level())))
        self._check_deadline(plans)
        trials = Trials(self.pool, self.job, self.constants)
        plan, *rest = trials.ranked(plans)
        others = self._unlike(plan, rest)
        finished = not any(evolution.cut_short for evolution in evolutions)
        shares = {one: trials.result(one).attainment for one in (plan, *others[:_REJECTED])}
        return self._chosen(plan, shares[plan], others, finished, shares)

    def _chosen(
        self,
        plan: Plan,
        score: float,
        others: Sequence[Plan],
        finished: bool,
        in_time: Mapping[Plan, float] = MappingProxyType({}),
    ) -> Found[ServeForecast]:
        """`in_time` are simulated shares of requests, which closed forms had better not contradict."""
        objective, bound, others = self.job.options.objective, self.bound(), others[:_REJECTED]
        forecast, *theirs = (self._forecast(one) for one in (plan, *others))
        told = replace(forecast, attainment=in_time.get(plan, forecast.attainment))
        rejected = []
        for other, its in zip(others, theirs, strict=True):
            as_told = replace(its, attainment=in_time.get(other, its.attainment))
            rejected.append(Rejected(other, its, why_not(self.pool, plan, told, other, as_told, objective)))
        plan = replace(plan, explanation=explain(self.pool, plan, forecast, objective, score, bound))
        return Found(plan, forecast, objective, score, bound, tuple(rejected), self.replicas.designed, finished)

    def _unlike(self, plan: Plan, others: Sequence[Plan]) -> list[Plan]:
        """Of the others the first of each way to cut: the same on machines that are alike is no alternative."""
        first = {self._cuts(other): other for other in reversed(others)}
        return [one for one in others if first[self._cuts(one)] is one and self._cuts(one) != self._cuts(plan)]

    def _cuts(self, plan: Plan) -> Hashable:
        """Kind of machine, devices and layers of every stage, whatever the machines are called."""
        fleet = self.job.fleet
        kinds = {node.id: of_class for node, of_class in zip(fleet.nodes, fleet.class_of, strict=True)}
        return tuple(
            sorted(
                tuple((kinds[stage.node], len(stage.devices), stage.first, stage.last) for stage in pipeline.stages)
                for pipeline in plan.pipelines
            )
        )

    def _plan(self, scored: Scored) -> Plan:
        job = self.job
        return realise(job.fleet, job.shape, job.options, scored.layout, scored.replicas, scored.used)

    def _forecast(self, plan: Plan) -> ServeForecast:
        job = self.job
        return serve_forecast(plan, self.pool, job.shape, job.workload, self.constants, rules=rules_of(job))

    def score(self, plan: Plan, forecast: ServeForecast) -> float:
        """The objective's value, but for `slo`."""
        objective = self.job.options.objective
        if objective == "latency":
            return alone_s(plan, self.pool, self.job, self.constants)
        if objective == "cost":
            return forecast.capacity_tokens_per_s / max(self.worth.bill(plan), 1e-9)
        return forecast.capacity_tokens_per_s

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
        if self.job.options.symmetric or self.ranges:
            return []
        level = replace(self, replicas=Replicas(symmetric(self.job), {}, self.replicas.every_order))
        evolutions = level.evolved(0, lambda: False)
        return [one for evolution in evolutions for one in evolution.population[:_LEVEL_FINALISTS]]

    def _check_deadline(self, plans: Sequence[Plan]) -> None:
        deadline_s = self.job.workload.deadline_s
        assert deadline_s is not None
        soonest_s = min(alone_s(plan, self.pool, self.job, self.constants) for plan in plans)
        if soonest_s > deadline_s:
            raise refusals.deadline(deadline_s, soonest_s)


def _stages(plan: Plan) -> int:
    return sum(len(pipeline.stages) for pipeline in plan.pipelines)
