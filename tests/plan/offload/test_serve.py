"""Plans with stages larger than their devices: what is chosen, what it promises, and what is said of it."""

from dataclasses import replace

import numpy as np
import pytest

from muster.cli.planning import Question, answer_in_dtype
from muster.errors import DoesNotFit, InvalidRequest
from muster.plan.offload.chain import OffloadChain, OffloadOptions, plan_chain
from muster.plan.offload.serve import plan_offload
from muster.plan.runnable import beyond
from muster.sim.serve.forecast import serve_forecast
from muster.sim.serve.offload import check_room, stage_block
from muster.sim.serve.simulate import simulate_serving
from muster.spec.plan_check import check_plan
from muster.spec.workload import ServeWorkload
from tests.plan.offload.small import machine, pool, shape

ASKED = ServeWorkload(64, 32, concurrency=16)


def plan(model, machines, workload=ASKED, **options):
    return plan_offload(model, machines, workload, OffloadOptions(**options))


@pytest.mark.parametrize(
    "node",
    [
        machine(device=40e6, host=120e6),
        machine(device=40e6, host=30e6, disk=300e6),
        machine(device=35e6, host=0, disk=300e6, kind="cpu", disk_read_bytes_per_s=1e9),
    ],
)
def test_the_search_is_within_three_per_cent_of_every_size_of_block(node):
    options = OffloadOptions(max_sequences=16, prompt_tokens=(128, 512))
    chain = OffloadChain(shape(layers=4), [node], pool(node), ASKED, options)
    found = plan_chain(chain)
    sizes = [
        replace(found.size, microbatch=b, num_microbatches=k, order=order, prompt_tokens=tokens, attention="device")
        for b in (1, 2, 3, 4, 6, 8, 12, 16)
        for k in range(1, 16 // b + 1)
        for order in options.orders
        for tokens in options.prompt_tokens
    ]
    swept = [one.tokens_per_s for size in sizes[::4] if (one := chain.plan((0, 4), size))]
    assert swept
    assert found.tokens_per_s >= 0.97 * max(swept)


def test_no_tier_is_promised_more_than_is_lent():
    rng = np.random.default_rng(5)
    for _ in range(4):
        device, host, disk = rng.uniform(40e6, 80e6), rng.uniform(25e6, 60e6), rng.uniform(50e6, 200e6)
        machines = pool(machine(device, host, disk))
        found = plan(shape(), machines, max_sequences=32)
        check_plan(found.plan, machines, shape())
        (pipeline,) = found.plan.pipelines
        block = stage_block(pipeline, pipeline.stages[0], machines.nodes[0], shape(), ASKED)
        check_room(block)
        assert found.forecast.stages[0].used_bytes <= device
        assert block.need.sum() > shape().weight_bytes(0, 6)
        smaller = replace(machines.nodes[0].device, memory_bytes=int(block.need[0] * 0.99))
        with pytest.raises(DoesNotFit, match="of device memory and"):
            check_room(replace(block, node=replace(machines.nodes[0], device=smaller)))


def test_three_machines_are_planned_as_one_and_the_slow_one_gets_fewer_layers():
    nodes = [machine(name="ada"), machine(name="bob", to_device_bytes_per_s=2.5e8), machine(name="cy")]
    model = shape(layers=24)
    few = OffloadOptions(orders=("zigzag",), attention_on_host=False, prompt_tokens=(256,), max_sequences=48)
    found = plan_offload(model, pool(*nodes), ServeWorkload(64, 32), few)
    layers = {stage.node: stage.num_layers for stage in found.plan.only_pipeline.stages}
    assert layers["bob"] < min(layers["ada"], layers["cy"])
    large = replace(nodes[0], device=replace(nodes[0].device, host_memory_bytes=400_000_000))
    alone = plan_offload(model, pool(large), ServeWorkload(64, 32), few)
    assert found.forecast.tokens_per_s > alone.forecast.tokens_per_s


def test_a_forecast_made_again_from_the_plan_is_the_same_and_a_simulation_is_refused():
    machines = pool(machine(device=40e6, host=120e6))
    found = plan(shape(), machines, max_sequences=4)
    again = serve_forecast(found.plan, machines, shape(), ASKED)
    assert again.tokens_per_s == pytest.approx(found.forecast.tokens_per_s, rel=1e-9)
    with pytest.raises(InvalidRequest, match="larger than their devices"):
        simulate_serving(found.plan, machines, shape(), ASKED)


def test_what_fits_is_not_offloaded_and_what_does_not_is_told_in_words():
    large, small = pool(machine(device=2e9)), pool(machine(device=60e6, host=300e6))
    model = shape(layers=12)
    _, fits = answer_in_dtype(Question(model, large, "throughput", ASKED), lambda: False)
    assert not beyond(fits.plan)
    _, made = answer_in_dtype(Question(model, small, "throughput", ASKED), lambda: False)
    assert made.plan.only_pipeline.stages[0].memory.weights_on_host > 0.3
    assert "in host memory" in made.plan.explanation
    assert "What binds is" in made.plan.explanation
    assert beyond(made.plan) == ["stages larger than their devices"]


def test_where_nothing_is_lent_elsewhere_the_refusal_stays_and_too_little_names_what_is_lent():
    model = shape(layers=12)
    with pytest.raises(DoesNotFit, match="too little"):
        answer_in_dtype(Question(model, pool(machine(device=60e6, host=0)), "throughput", ASKED), lambda: False)
    with pytest.raises(DoesNotFit, match=r"of host memory and .* of disk; lend more"):
        plan(model, pool(machine(device=60e6, host=1e6)))
