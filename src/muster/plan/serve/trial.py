"""Finalists for a deadline, tried in the simulator: closed forms do not see how steps fill as requests come at random.

Knows nothing of how the plans were found.
"""

from dataclasses import replace

from muster.cost.pace import Constants
from muster.plan.serve.job import Job
from muster.sim.rhythm import rhythm
from muster.sim.ring import BatchRules, Ring
from muster.sim.serving import simulate_serving
from muster.spec.plan import Plan
from muster.spec.pool import Pool

_DEADLINES = 5
"""Arrivals of so many deadlines, so that a queue has time to grow …"""
_FEWEST, _MOST = 300, 3000
"""… within limits of effort."""


def trial(plan: Plan, pool: Pool, job: Job, constants: Constants) -> tuple[float, float]:
    """(share of requests in time, mean seconds of a request) at the workload's rate, in one simulation."""
    rate, deadline_s = job.workload.requests_per_s, job.workload.deadline_s
    assert rate is not None
    assert deadline_s is not None
    count = int(min(_MOST, max(_FEWEST, _DEADLINES * deadline_s * rate)))
    run = simulate_serving(
        plan, pool, job.shape, job.workload, constants=constants, num_requests=count, rules=rules_of(job)
    )
    return run.attainment or 0.0, run.request_s


def alone_s(plan: Plan, pool: Pool, job: Job, constants: Constants) -> float:
    """Seconds of one request on the idle pool, on the plan's quickest pipeline."""
    rings = (Ring(plan, i, pool, job.shape, constants, rules_of(job)) for i in range(len(plan.pipelines)))
    return min(rhythm(ring, job.workload, 1.0).service_s(job.workload.output_tokens) for ring in rings)


def rules_of(job: Job) -> BatchRules:
    return BatchRules(prefill_tokens=job.options.workspace.prefill_tokens)


def symmetric(job: Job) -> Job:
    """The same with symmetric pipelines only."""
    return replace(job, options=replace(job.options, symmetric=True))
