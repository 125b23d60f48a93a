"""Requests on their way through the head's door, before and after the simulated ring. Arithmetic; starts nothing.

The head reads one request after the other, so those that come together enter the ring one after the other. What they
wait there, and the way from the head to the first stage and back, the client sees beside what the ring takes.
"""

import statistics
from collections.abc import Sequence

from benchmarks.forecast_pool import Asked
from muster.cost.pace import Constants
from muster.sim.serve.arrivals import trace
from muster.sim.serve.result import ServeRun
from muster.sim.serve.simulate import simulate_serving
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Plan
from muster.spec.pool import Pool
from muster.spec.workload import ServeWorkload


def simulated(
    asked: Sequence[Asked],
    plan: Plan,
    pool: Pool,
    shape: ModelShape,
    workload: ServeWorkload,
    constants: Constants,
    each_s: float,
    beside_s: float,
) -> tuple[dict[str, float], ServeRun]:
    """What the client will measure. Each request keeps the head for `each_s`; `beside_s` is added to every answer."""
    rows, free_s = [], 0.0
    for one in asked:
        free_s = max(free_s, one.at_s) + each_s
        rows.append((free_s, len(one.prompt), one.output_tokens))
    done = simulate_serving(plan, pool, shape, workload, arrivals=trace(rows), constants=constants)
    pairs = list(zip(asked, done.requests, strict=True))
    return {
        "tokens_per_s": sum(one.output_tokens for one in asked) / (done.duration_s + beside_s),
        "first_token_s": statistics.mean(run.first_token_s - one.at_s for one, run in pairs) + beside_s,
        "request_s": statistics.mean(run.end_s - one.at_s for one, run in pairs) + beside_s,
    }, done
