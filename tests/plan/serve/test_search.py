"""The search for a serving plan: what every plan satisfies, and what it does with particular fleets."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from muster.errors import DoesNotFit
from muster.plan.serve.search import plan_serving
from tests.plan.fleets import shape
from tests.plan.serve.checks import check_plan
from tests.plan.serve.fleets import QUICK, WORK, fleets

objectives = st.sampled_from(["throughput", "cost", "latency", "slo"])


@settings(max_examples=40, deadline=None)
@given(fleet=fleets(), layers=st.integers(1, 9), objective=objectives, symmetric=st.booleans(), seed=st.integers(0, 3))
def test_any_plan_is_sound_does_not_beat_its_bound_and_comes_again_from_the_same_seed(
    fleet, layers, objective, symmetric, seed
):
    model = shape(layers)
    options = replace(QUICK, objective=objective, symmetric=symmetric)
    work = replace(WORK, requests_per_s=0.1, deadline_s=1e6) if objective == "slo" else WORK
    try:
        found = plan_serving(model, fleet, work, options, seed=seed)
    except DoesNotFit:
        return
    check_plan(found.plan, model, fleet)
    for other in found.alternatives:
        check_plan(other.plan, model, fleet)
    if objective == "latency":
        assert found.score >= found.bound * (1 - 1e-9)
    else:
        assert found.score <= found.bound * (1 + 1e-9)
    assert found.gap >= 0
    assert plan_serving(model, fleet, work, options, seed=seed) == found
