from dataclasses import replace
from math import e, inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.cost.island import island_seconds
from muster.cost.pace import TYPICAL, Constants
from muster.cost.work import decode, prefill
from muster.sim.serve.stage_time import StagePace, StepLoad, decode_load
from muster.spec.plan import Stage
from tests.sim.rings import node, shape

FITTED = Constants(
    step_s=1e-3, layer_s=2e-5, row_s=5e-5, matmul=1.3, attention=4.0, memory=2.0, overlap=0.25, host_flops_per_s=2e14
)
CONSTANTS = st.sampled_from([TYPICAL, FITTED])
RANGES = st.tuples(st.integers(0, 15), st.integers(1, 16)).filter(lambda pair: pair[0] < pair[1])


@given(
    RANGES,
    st.integers(1, 64),
    st.integers(1, 3000),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([0, 256]),
    st.booleans(),
    CONSTANTS,
)
def test_a_decode_step_takes_what_the_cost_model_says(layers, batch, context, devices, window, experts, constants):
    model = shape(windows=(0, window) * 8, experts=8 if experts else 0)
    machine = node("a", devices=4)
    stage = Stage("a", *layers, devices=tuple(range(devices)))
    expected = island_seconds(decode(model, *layers, batch, context), model, batch, machine, devices, constants)
    pace = StagePace(model, stage, machine, constants)
    assert pace.seconds(decode_load(batch, context)) == pytest.approx(expected, rel=1e-6)


@given(RANGES, st.integers(1, 600), st.integers(0, 3000), st.sampled_from([1, 2]), st.sampled_from([0, 256]), CONSTANTS)
def test_a_prompt_chunk_takes_what_the_cost_model_says(layers, tokens, past, devices, window, constants):
    model = shape(windows=(0, window) * 8)
    machine = node("a", devices=2)
    pace = StagePace(model, Stage("a", *layers, devices=tuple(range(devices))), machine, constants)
    work = prefill(model, *layers, tokens, past)
    expected = island_seconds(work, model, tokens, machine, devices, constants)
    assert pace.seconds(StepLoad(chunks=((past, tokens),), samples=1)) == pytest.approx(expected, rel=1e-6)


def test_a_step_of_both_reads_the_weights_once():
    model, machine = shape(), node("a")
    pace = StagePace(model, Stage("a", 0, 16), machine, TYPICAL)
    alone = pace.seconds(StepLoad(4, 100, (), 4)), pace.seconds(StepLoad(chunks=((0, 64),), samples=1))
    both = pace.seconds(StepLoad(4, 100, ((0, 64),), 5))
    assert max(alone) < both < sum(alone) - 0.9 * min(alone)


def test_a_step_soon_after_the_last_is_spared_what_a_pause_costs():
    cold = replace(FITTED, cold_s=2e-3, cools_s=0.01)
    pace = StagePace(shape(), Stage("a", 0, 16), node("a"), replace(cold, host_flops_per_s=0.0))
    assert pace.spared_s(0.0, 1.0) == 2e-3
    assert pace.spared_s(0.01, 1.0) == pytest.approx(2e-3 / e)
    assert pace.spared_s(inf, 1.0) == 0.0
    never = StagePace(shape(), Stage("a", 0, 16), node("a"), replace(cold, cold_s=0.0, host_flops_per_s=0.0))
    load = decode_load(4, 100)
    assert pace.seconds(load) == pytest.approx(never.seconds(load) + 2e-3)
    assert never.spared_s(0.0, 1.0) == 0.0


def test_a_machine_that_lends_half_of_its_time_pauses_for_half_of_every_step():
    # The machine has no figure for float32, so its bfloat16 stands in: half of the host's.
    half = StagePace(
        shape(), Stage("a", 0, 16), node("a"), replace(FITTED, cold_s=2e-3, cools_s=0.01, host_flops_per_s=4e13)
    )
    assert half.spared_s(0.0, 0.0) == pytest.approx(2 * 2e-3)
    assert half.spared_s(0.0, 0.02) == half.spared_s(0.01, 0.0) == pytest.approx(2 * 2e-3 / e)
