"""Where requests come one at a time, the closed form and the simulation must say the same of each."""

import random
from dataclasses import replace
from statistics import median

import pytest

from muster.cost.pace import TYPICAL
from muster.sim.serve.forecast import serve_forecast
from muster.sim.serve.simulate import simulate_serving
from muster.spec.plan import Pipeline, Plan, ServeSettings, Stage
from muster.spec.workload import ServeWorkload
from tests.sim.rings import node, plan, pool, shape


def drawn(seed: int):
    """A small fleet, a plan over it and a workload that leaves it idle nearly all of the time."""
    rng = random.Random(seed)
    count = rng.randint(1, 4)
    nodes = [node(f"n{i}", speed=rng.choice([0.3, 1, 3]), devices=rng.choice([1, 2])) for i in range(count)]
    cuts = [0, *sorted(rng.sample(range(1, 16), count - 1)), 16]
    stages = tuple(
        Stage(one.id, *cuts[i : i + 2], tuple(range(rng.randint(1, one.device_count)))) for i, one in enumerate(nodes)
    )
    settings = ServeSettings(4000, 16, rng.choice([1, count, 2 * count + 1]), batch=8)
    fleet = pool(*nodes, latency_s=rng.choice([1e-3, 0.02, 0.1]), bandwidth=rng.choice([1e6, 1e7, 1e8]))
    workload = ServeWorkload(rng.choice([10, 100, 500, 1500, 4000]), rng.choice([2, 5, 20, 100]), 1e-6)
    drawn_plan = plan(Pipeline(stages, settings))
    alone = serve_forecast(drawn_plan, fleet, shape(), workload, TYPICAL)
    return drawn_plan, fleet, replace(workload, requests_per_s=1e-3 / alone.request_s)


def ratios(drawn_plan: Plan, fleet, workload: ServeWorkload) -> tuple[float, float, float]:
    """Closed form over simulation: the request, its first token, each token after."""
    said = serve_forecast(drawn_plan, fleet, shape(), workload, TYPICAL)
    seen = simulate_serving(drawn_plan, fleet, shape(), workload, constants=TYPICAL, num_requests=10)
    return (
        said.request_s / seen.request_s,
        said.time_to_first_token_s / seen.time_to_first_token_s,
        said.seconds_per_token / seen.seconds_per_token,
    )


def test_on_random_small_fleets_requests_that_are_alone_take_as_long_as_in_simulation():
    found = [one for seed in range(60) for one in ratios(*drawn(seed))]
    assert median(abs(one - 1) for one in found) < 0.005
    assert max(max(one, 1 / one) for one in found) < 1.3


def test_prompts_of_others_are_not_paid_for_in_steps_that_have_none():
    """At a low rate nearly all steps have no prompt beside them, however long prompts are."""
    fleet = pool(node("a"))
    served = plan(Pipeline((Stage("a", 0, 16),), ServeSettings(4000, 16, 1, batch=8)))
    short, long = (
        serve_forecast(served, fleet, shape(), ServeWorkload(prompt, 32, 1e-4), TYPICAL) for prompt in (64, 1024)
    )
    assert long.time_to_first_token_s > 4 * short.time_to_first_token_s
    assert long.seconds_per_token == pytest.approx(short.seconds_per_token, rel=0.1)
