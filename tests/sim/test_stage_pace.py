import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.cost.island import island_seconds
from muster.cost.pace import TYPICAL, Constants
from muster.cost.work import decode, prefill
from muster.sim.stage_pace import StagePace, StepLoad
from muster.sim.steady import stage_step_seconds
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
@settings(deadline=None)
def test_a_decode_step_takes_what_the_cost_model_says(layers, batch, context, devices, window, experts, constants):
    model = shape(windows=(0, window) * 8, experts=8 if experts else 0)
    machine = node("a", devices=4)
    stage = Stage("a", *layers, devices=tuple(range(devices)))
    expected = island_seconds(decode(model, *layers, batch, context), model, batch, machine, devices, constants)
    assert stage_step_seconds(model, stage, machine, batch, context, constants) == pytest.approx(expected, rel=1e-6)


@given(RANGES, st.integers(1, 600), st.integers(0, 3000), st.sampled_from([1, 2]), st.sampled_from([0, 256]), CONSTANTS)
@settings(deadline=None)
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
