"""Seconds and bytes, against numbers worked out by hand."""

from dataclasses import replace
from math import inf

import hypothesis.strategies as st
import pytest
from hypothesis import given

from muster.cost.codecs import message_bytes
from muster.cost.layer_ranges import ranges, weight_table, work_table, workspace_row
from muster.cost.memory import SCORED_AT_ONCE, WorkspaceOptions, dtype_bytes, stage_bytes, workspace_bytes
from muster.cost.pace import UNMEASURED_FLOPS_PER_S, Constants, peak_flops_per_s, seconds
from muster.cost.transfer import transfer_seconds, wire_seconds
from muster.cost.work import decode
from muster.spec.model_shape import ModelShape
from muster.spec.pool import Device, LinkSpeed

MODEL = ModelShape(
    name="m",
    architecture="LlamaForCausalLM",
    dtype="bfloat16",
    num_layers=3,
    hidden_size=10,
    vocab_size=100,
    max_context=64,
    layer_bytes=(1000, 2000, 3000),
    layer_flops_per_token=(1000, 2000, 3000),
    kv_bytes_per_token=(4, 4, 8),
    embedding_bytes=500,
    head_bytes=700,
    head_flops_per_token=100,
)


def device(flops, bandwidth):
    return Device(
        kind="cpu", name="d", memory_bytes=0, flops_per_s={"bfloat16": flops}, memory_bandwidth_bytes_per_s=bandwidth
    )


def ideal_s(first, last, machine, sequences=1, context=0):
    return seconds(decode(MODEL, first, last, sequences, context), machine, MODEL.dtype)


def test_a_stage_that_waits_for_memory_takes_the_bytes_it_moves_over_the_bandwidth():
    # Layers 1 and 2 and the head: 5700 bytes of weights; two sequences with 10 cached tokens of 12 bytes each, and one
    # more that is written; activations of (2000 + 3000) / 20 + 2 * 20 numbers, twice.
    moved = 5700 + 2 * 11 * 12 + 2 * 2 * 2 * (250 + 40)
    assert ideal_s(1, 3, device(1e12, 100.0), sequences=2, context=10) == pytest.approx(moved / 100)


def test_a_stage_that_waits_for_arithmetic_takes_its_flops_over_the_speed():
    assert ideal_s(1, 3, device(50.0, 1e12), sequences=2) == pytest.approx(2 * 5100 / 50)


def test_of_the_embedding_only_rows_are_read():
    assert ideal_s(0, 1, device(1e12, 100.0)) == pytest.approx((1000 + 4 + 2 * 2 * (50 + 20)) / 100)


def test_a_machine_that_was_not_measured_counts_as_slow_and_another_dtype_stands_in():
    assert peak_flops_per_s(Device(kind="cpu", name="d", memory_bytes=0), "bfloat16") == UNMEASURED_FLOPS_PER_S
    assert peak_flops_per_s(device(7.0, 1.0), "float32") == 7.0


@st.composite
def models(draw):
    layers = draw(st.integers(1, 9))
    many = st.lists(st.integers(1, 10**9), min_size=layers, max_size=layers).map(tuple)
    experts = draw(st.booleans())
    sizes = draw(many)
    return replace(
        MODEL,
        num_layers=layers,
        layer_bytes=sizes,
        layer_flops_per_token=draw(many),
        kv_bytes_per_token=draw(many),
        windows=draw(st.sampled_from([(), (0, 64) * layers]))[:layers],
        expert_bytes=tuple(size // 2 for size in sizes) if experts else (),
        num_experts=8 if experts else 0,
        experts_per_token=2 if experts else 0,
        tied_bytes=draw(st.sampled_from([0, 400])),
    )


figures = st.floats(1e3, 1e15)
constants = st.builds(
    Constants,
    step_s=st.floats(0, 1),
    cold_s=st.floats(0, 1),
    cools_s=st.floats(0, 1),
    layer_s=st.floats(0, 1),
    row_s=st.floats(0, 1),
    matmul=st.floats(0, 9),
    attention=st.floats(0, 9),
    memory=st.floats(0, 9),
    overlap=st.floats(0, 1),
    host_flops_per_s=st.sampled_from([0.0, 1e12]),
)


@given(models(), st.builds(device, figures, figures), constants, st.integers(1, 300), st.integers(1, 5000))
def test_all_layer_ranges_at_once_take_and_need_what_each_does_by_itself(model, machine, some, sequences, context):
    layers = range(model.num_layers)
    work = work_table([decode(model, layer, layer + 1, sequences, context) for layer in layers])
    table = seconds(work, machine, model.dtype, some)
    options = WorkspaceOptions(prefill_tokens=sequences)
    bytes_ = weight_table(model) + context * ranges(model.kv_bytes_per_token) + workspace_row(model, options)
    for first in layers:
        for last in range(first + 1, model.num_layers + 1):
            alone_s = seconds(decode(model, first, last, sequences, context), machine, model.dtype, some)
            assert table[first, last] == pytest.approx(alone_s, rel=1e-6)
            assert bytes_[first, last] == stage_bytes(model, first, last, context, options)


def test_a_transfer_takes_latency_plus_bytes_over_bandwidth():
    assert transfer_seconds(LinkSpeed(0.5, 100.0), 50) == pytest.approx(1.0)
    assert transfer_seconds(LinkSpeed(0.5, 100.0), 50, message_s=0.25) == pytest.approx(1.25)
    assert wire_seconds(LinkSpeed(0.5, 0.0), 50) == inf
    assert message_bytes(MODEL, tokens=3) == 3 * 10 * 2


def test_a_stage_needs_its_weights_its_cache_and_its_workspace():
    options = WorkspaceOptions(prefill_tokens=5, samples=70)
    widest = 3000 // 20 + 2 * 10
    assert workspace_bytes(MODEL, 2, options) == 5 * widest * 2
    assert workspace_bytes(MODEL, 3, options) == 5 * widest * 2 + 2 * 70 * 100 * 4
    few = WorkspaceOptions().of_steps(5, batch=2)
    assert workspace_bytes(MODEL, 3, few) == 5 * widest * 2 + 2 * SCORED_AT_ONCE * 100 * 4, "scores"
    assert stage_bytes(MODEL, 0, 2, 10, options) == 3500 + 80 + workspace_bytes(MODEL, 2, options)
    assert stage_bytes(MODEL, 2, 3, 10, options) == 3700 + 80 + workspace_bytes(MODEL, 3, options)


def test_an_unknown_dtype_counts_as_wide():
    assert dtype_bytes("mystery") == 8
