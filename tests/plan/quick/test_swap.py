"""A quick plan swaps cache where every machine lends host memory for it, and never more than that."""

from dataclasses import replace

import pytest

from muster.cost.swapping import host_bytes, swap_bytes_per_s
from muster.plan.quick.planner import place
from muster.plan.quick.tables import PlanOptions
from muster.plan.replan.choose import can_be
from muster.plan.serve.one_pipeline import one_pipeline
from muster.spec.pool import LinkSpeed, Pool
from tests.plan.fleets import MIB, node, pool, shape

MODEL = shape()
OPTIONS = PlanOptions()
PLANNERS = [place, lambda model, machines, keep, options: one_pipeline(model, machines, options)]


def fleet(*host_mib: float, kind: str = "cpu", host_bandwidth: float = 1e10) -> Pool:
    """Three machines far apart, with little room beside the layers."""
    machines = []
    for index, mib in enumerate(host_mib):
        one = node(f"n{index}", 450)
        device = replace(
            one.device,
            kind=kind,
            host_memory_bytes=int(mib * MIB),
            host_bandwidth_bytes_per_s=host_bandwidth,
        )
        machines.append(replace(one, device=device))
    return replace(pool(*machines), default_link=LinkSpeed(0.1, 1e8))


@pytest.mark.parametrize(
    "planner", [place, lambda model, machines, keep, options: one_pipeline(model, machines, options)]
)
@pytest.mark.parametrize("host_mib", [(4000, 4000, 4000), (700, 4000, 900)])
def test_a_far_ring_swaps_as_much_as_host_memory_holds(planner, host_mib):
    machines = fleet(*host_mib)
    plan = planner(MODEL, machines, None, OPTIONS)
    pipeline = plan.only_pipeline
    assert pipeline.serve.swap_pages > 0
    assert pipeline.serve.all_pages > 1.1 * pipeline.serve.num_pages
    lent = {one.id: one.device.host_memory_bytes for one in machines.nodes}
    for stage in pipeline.stages:
        assert 0 < host_bytes(MODEL, stage.first, stage.last, pipeline.serve) <= lent[stage.node]
    assert can_be(plan, MODEL, machines, OPTIONS)
    less = replace(
        machines, nodes=tuple(replace(n, device=replace(n.device, host_memory_bytes=MIB)) for n in machines.nodes)
    )
    assert not can_be(plan, MODEL, less, OPTIONS)


@pytest.mark.parametrize(
    "machines",
    [
        fleet(0, 0, 0),
        fleet(4000, 0, 4000),
        fleet(4000, 4000, 4000, kind="mps"),
        fleet(4000, 4000, 4000, host_bandwidth=0),
    ],
    ids=["none", "one without", "one memory for both", "nobody knows how fast"],
)
@pytest.mark.parametrize(
    "planner", [place, lambda model, machines, keep, options: one_pipeline(model, machines, options)]
)
def test_nothing_is_swapped_where_a_machine_cannot(planner, machines):
    assert planner(MODEL, machines, None, OPTIONS).only_pipeline.serve.swap_pages == 0


def test_a_slow_host_swaps_less_for_a_slice_must_pass_in_the_time_of_a_step():
    plenty = place(MODEL, fleet(9000, 9000, 9000), None, OPTIONS).only_pipeline.serve
    machines = fleet(9000, 9000, 9000, host_bandwidth=2e8)
    plan = place(MODEL, machines, None, OPTIONS)
    assert 0 < plan.only_pipeline.serve.swap_pages < plenty.swap_pages
    for stage in plan.only_pipeline.stages:
        page = OPTIONS.page_size * MODEL.cache_bytes_per_token(stage.first, stage.last)
        assert (
            plan.only_pipeline.serve.swap_pages * page / swap_bytes_per_s(machines.nodes[0].device) <= plan.step_seconds
        )
