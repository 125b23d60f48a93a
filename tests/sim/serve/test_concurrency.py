"""So many requests at a time, as most benchmark tools send them."""

from dataclasses import replace

import pytest

from muster.sim.serve.forecast import serve_forecast
from muster.sim.serve.simulate import simulate_serving
from muster.spec.workload import ServeWorkload
from tests.sim.rings import node, pipeline, plan, pool, shape

WORK = ServeWorkload(prompt_tokens=64, output_tokens=32)


@pytest.mark.parametrize("many", [1, 3, 16, 64])
@pytest.mark.parametrize("pipelines", [["a"], ["a", "b"], ["ab"]])
def test_so_many_requests_are_there_at_a_time_and_closed_form_and_simulation_agree(many, pipelines):
    fleet, served = pool(node("a"), node("b")), plan(*map(pipeline, pipelines))
    asked = replace(WORK, concurrency=many)
    # Lengths differ, else all requests would begin and end together for ever.
    run = simulate_serving(served, fleet, shape(), asked, num_requests=12 * many + 60, spread=0.5)
    assert run.finished == 12 * many + 60
    changes = sorted([(one.arrival_s, 1) for one in run.requests] + [(one.end_s, -1) for one in run.requests])
    there = most = 0
    for _, change in changes:
        there += change
        most = max(most, there)
    assert most == many
    told = serve_forecast(served, fleet, shape(), asked)
    assert told.tokens_per_s == pytest.approx(run.steady_tokens_per_s, rel=0.15)
    assert told.request_s == pytest.approx(run.request_s, rel=0.15)
