"""The search for a serving plan: what every plan satisfies, and what it does with particular fleets."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from muster.errors import DoesNotFit
from muster.plan.serve.options import ServeOptions
from muster.plan.serve.search import plan_serving
from muster.spec.pool import LinkSpeed
from muster.spec.workload import ServeWorkload
from tests.plan.fleets import node, pool, shape
from tests.plan.serve.checks import check_plan

WORK = ServeWorkload(prompt_tokens=128, output_tokens=32)
QUICK = ServeOptions(evaluations=40, max_batch=32, max_microbatches=16)
FAR = LinkSpeed(0.02, 1.25e7)


def machine(name, memory_mib=1000.0, speed=1.0, devices=1, region="here", price=1.0, kind="cuda"):
    one = node(name, memory_mib, speed, region)
    device = replace(one.device, kind=kind, host_bandwidth_bytes_per_s=1e10)
    inside = LinkSpeed(1e-5, 1e10) if devices > 1 else None
    return replace(one, device=device, device_count=devices, inside=inside, price_per_hour=price)


@st.composite
def fleets(draw, largest=4, most_devices=3):
    count = draw(st.integers(1, largest))
    kinds = st.tuples(
        st.integers(150, 1200),
        st.sampled_from([0.3, 1.0, 1.0, 4.0]),
        st.integers(1, most_devices),
        st.sampled_from(["here", "there"]),
        st.sampled_from([0.2, 1.0, 3.0]),
    )
    nodes = [machine(f"n{i}", *draw(kinds)) for i in range(count)]
    names = [n.id for n in nodes]
    speeds = st.sampled_from([LinkSpeed(0.001, 1e9), LinkSpeed(0.02, 1e7), LinkSpeed(0.08, 1e6)])
    links = {(a, b): draw(speeds) for a in names for b in names if a != b}
    return pool(*nodes, links=links)


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
