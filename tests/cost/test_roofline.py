"""Seconds and bytes, against numbers worked out by hand."""

from math import inf

import pytest

from muster.cost.memory import WorkspaceOptions, dtype_bytes, stage_bytes, workspace_bytes
from muster.cost.roofline import flops_per_s, hidden_bytes, stage_seconds, transfer_seconds, wire_seconds
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


def test_a_stage_that_waits_for_memory_takes_the_bytes_it_reads_over_the_bandwidth():
    # layers 1 and 2 and the head: 5700 bytes of weights; two sequences with 10 cached tokens of 12 bytes each
    assert stage_seconds(MODEL, 1, 3, device(1e12, 100.0), tokens=2, context=10) == pytest.approx((5700 + 240) / 100)


def test_a_stage_that_waits_for_arithmetic_takes_its_flops_over_the_speed():
    assert stage_seconds(MODEL, 1, 3, device(50.0, 1e12), tokens=2) == pytest.approx(2 * 5100 / 50)


def test_of_the_embedding_only_rows_are_read():
    assert stage_seconds(MODEL, 0, 1, device(1e12, 100.0), tokens=1) == pytest.approx(10.0)


def test_a_machine_that_was_not_measured_counts_as_slow_and_another_dtype_stands_in():
    assert flops_per_s(Device(kind="cpu", name="d", memory_bytes=0), "bfloat16") > 0
    assert flops_per_s(device(7.0, 1.0), "float32") == 7.0


def test_a_transfer_takes_latency_plus_bytes_over_bandwidth():
    assert transfer_seconds(LinkSpeed(0.5, 100.0), 50) == pytest.approx(1.0)
    assert wire_seconds(LinkSpeed(0.5, 0.0), 50) == inf
    assert hidden_bytes(MODEL, tokens=3) == 3 * 10 * 2


def test_a_stage_needs_its_weights_its_cache_and_its_workspace():
    options = WorkspaceOptions(prefill_tokens=5, samples=2)
    widest = 3000 // 20 + 2 * 10
    assert workspace_bytes(MODEL, 2, options) == 5 * widest * 2
    assert workspace_bytes(MODEL, 3, options) == 5 * widest * 2 + 2 * 2 * 100 * 4
    assert stage_bytes(MODEL, 0, 2, 10, options) == 3500 + 80 + workspace_bytes(MODEL, 2, options)
    assert stage_bytes(MODEL, 2, 3, 10, options) == 3700 + 80 + workspace_bytes(MODEL, 3, options)


def test_an_unknown_dtype_counts_as_wide():
    assert dtype_bytes("mystery") == 8
