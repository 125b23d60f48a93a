"""Plans for a deadline, tried in the simulator: closed forms do not see how steps fill as requests come at random.

All plans meet the same requests. Around the best ones others are tried: with more or fewer steps in flight, and with
less of a prompt in one step. The last matters most in a deep ring, where every step waits behind a long one. Of plans
that are as good the one on fewer machines is taken, if it would bear some more requests: whoever falls behind slowly
looks well for a while. Knows nothing of how plans were found.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from muster.cost.pace import Constants
from muster.plan.serve.job import Job
from muster.sim.serve.forecast import serve_forecast
from muster.sim.serve.ring import BatchRules, Ring
from muster.sim.serve.simulate import simulate_serving
from muster.sim.serve.steady_state import steady_state
from muster.spec.plan import Pipeline, Plan
from muster.spec.pool import Pool

_DEADLINES = 8
"""Arrivals of so many deadlines, so that a queue has time to grow …"""
_FEWEST, _MOST = 500, 3000
"""… within limits of effort."""
_LEAST_PROMPT_TOKENS = 32
_ROUNDS, _LEADERS = 4, 2
"""So often, others are tried around so many of the best."""
_AS_GOOD = 1e-3
_MARGIN, _MAX_CHECKED = 1.1, 8
"""So much more than the rate must a plan bear to be taken for its fewer machines; so many are looked at."""


class Result(NamedTuple):
    attainment: float
    """Share of requests in time; no more than can be answered at all."""
    request_s: float
    """The mean."""


@dataclass
class Trials:
    pool: Pool
    job: Job
    constants: Constants
    results: dict[Plan, Result] = field(default_factory=dict)

    def ranked(self, plans: Iterable[Plan]) -> list[Plan]:
        """The best first: these, others like them, and the best on fewer machines."""
        for plan in plans:
            self.result(self._with_prompts_of(plan, self.job.workload.prompt_tokens))
        for _ in range(_ROUNDS):
            leaders = self._leaders()
            if self.results[leaders[0]].attainment == 1.0:
                break
            for plan in leaders:
                for other in self._others(plan):
                    self.result(other)
        if not self.job.options.pins:
            self._fewer_pipelines(self._leaders()[0])
        best = self._safest_of_the_smallest()
        return [best, *(plan for plan in self._order() if plan != best)]

    def result(self, plan: Plan) -> Result:
        if plan not in self.results:
            assert self.job.workload.requests_per_s is not None
            self.results[plan] = self._simulated(plan, self.job.workload.requests_per_s)
        return self.results[plan]

    def _simulated(self, plan: Plan, rate: float) -> Result:
        deadline_s = self.job.workload.deadline_s
        assert deadline_s is not None
        run = simulate_serving(
            plan,
            self.pool,
            self.job.shape,
            replace(self.job.workload, requests_per_s=rate),
            constants=self.constants,
            num_requests=int(min(_MOST, max(_FEWEST, _DEADLINES * deadline_s * rate))),
            rules=rules_of(self.job),
        )
        # A run is too short to see a large pool fall behind.
        lasting = min(1.0, self._capacity(plan) / rate)
        return Result(min(run.attainment or 0.0, lasting), run.request_s)

    def _capacity(self, plan: Plan) -> float:
        """Requests a second without end."""
        job, rules = self.job, rules_of(self.job)
        offline = replace(job.workload, requests_per_s=None, deadline_s=None)
        forecast = serve_forecast(plan, self.pool, job.shape, offline, self.constants, rules=rules)
        return forecast.capacity_tokens_per_s / job.workload.output_tokens

    def _safest_of_the_smallest(self) -> Plan:
        """The first in order that bears more than is asked; if none does, the one that bears it best."""
        rate = self.job.workload.requests_per_s
        assert rate is not None
        good = [plan for plan in self._order() if self.results[plan].attainment >= self._enough()]
        quick = [plan for plan in self._leaders() if plan in good]
        most = -1.0
        best = good[0]
        for plan in dict.fromkeys((*good[:_MAX_CHECKED], *quick)):
            bears = self._simulated(plan, _MARGIN * rate).attainment
            if bears >= self._enough():
                return plan
            if bears > most:
                most, best = bears, plan
        return best

    def _leaders(self) -> list[Plan]:
        return sorted(self.results, key=lambda plan: (-self.results[plan].attainment, self.results[plan].request_s))[
            :_LEADERS
        ]

    def _order(self) -> list[Plan]:
        enough = self._enough()

        def key(plan: Plan) -> tuple[float, float, float]:
            result = self.results[plan]
            if result.attainment >= enough:
                return 0.0, len(_machines(plan)), result.request_s
            return 1.0, -result.attainment, result.request_s

        return sorted(self.results, key=key)

    def _enough(self) -> float:
        return (1 - _AS_GOOD) * max(result.attainment for result in self.results.values())

    def _fewer_pipelines(self, plan: Plan) -> None:
        """As few of its pipelines, the best first, as are as good."""
        low, high = 1, len(plan.pipelines)
        while low < high:
            middle = (low + high) // 2
            good = self.result(self._first(plan, middle)).attainment >= self._enough()
            low, high = (low, middle) if good else (middle + 1, high)

    def _first(self, plan: Plan, count: int) -> Plan:
        fewer = replace(plan, pipelines=plan.pipelines[:count])
        busy = _machines(fewer)
        return replace(fewer, standbys=tuple(node.id for node in self.job.fleet.nodes if node.id not in busy))

    def _others(self, plan: Plan) -> Iterator[Plan]:
        prompts = plan.first_replica.serve.prefill_tokens
        for tokens in (prompts // 2, prompts * 2):
            yield self._with_prompts_of(plan, tokens)
        for more in (-1, 1):
            yield replace(plan, pipelines=tuple(self._with_steps(one, more) for one in plan.pipelines))

    def _with_prompts_of(self, plan: Plan, tokens: int) -> Plan:
        """At most so many tokens of prompts in a step, within reason."""
        within = max(_LEAST_PROMPT_TOKENS, min(self.job.options.workspace.prefill_tokens, tokens))
        return replace(plan, pipelines=tuple(one.with_work(prefill_tokens=within) for one in plan.pipelines))

    def _with_steps(self, pipeline: Pipeline, more: int) -> Pipeline:
        steps = max(1, min(self.job.options.max_microbatches, pipeline.serve.num_microbatches + more))
        return pipeline.with_work(num_microbatches=steps) if len(pipeline.stages) > 1 else pipeline


def _machines(plan: Plan) -> set[str]:
    return {stage.node for pipeline in plan.pipelines for stage in pipeline.stages}


def alone_s(plan: Plan, pool: Pool, job: Job, constants: Constants) -> float:
    """Seconds of one request on the idle pool, on the plan's quickest pipeline."""
    rings = (Ring(plan, i, pool, job.shape, constants, rules_of(job)) for i in range(len(plan.pipelines)))
    return min(steady_state(ring, job.workload, 1.0).service_s(job.workload.output_tokens) for ring in rings)


def rules_of(job: Job) -> BatchRules:
    return BatchRules(prefill_tokens=job.options.workspace.prefill_tokens)


def symmetric(job: Job) -> Job:
    """The same with symmetric pipelines only."""
    return replace(job, options=replace(job.options, symmetric=True))
