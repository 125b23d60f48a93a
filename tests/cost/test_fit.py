"""Constants come back from the times that they make, and what was not measured stays as it was."""

import json
import random
from dataclasses import replace
from math import inf

import hypothesis.strategies as st
import pytest
from hypothesis import given

from muster.cost.fit import Fit, Measurement, fit, left_out
from muster.cost.named_shapes import named_shape
from muster.cost.pace import IDEAL, UNMEASURED_FLOPS_PER_S, Constants, peak_flops_per_s, seconds
from muster.cost.work import Work, decode, prefill
from muster.errors import InvalidRequest
from muster.spec.devices import device_facts
from muster.spec.pool import Device
from tests.examples import examples

MODEL = named_shape("llama-3-8b")
DEVICES = [device_facts(name).device() for name in ("rtx-4090", "l4", "a100-80gb")]
WORKS = [
    *(
        decode(MODEL, 0, layers, batch, context)
        for layers in (4, 20)
        for batch in (1, 32, 400)
        for context in (64, 4000)
    ),
    *(prefill(MODEL, 0, layers, tokens, past) for layers in (4, 20) for tokens in (16, 2000) for past in (0, 6000)),
]
TIGHT = Constants(step_s=1.0, layer_s=0.5, matmul=2.0, attention=4.0, memory=1.5)
TRUE = Constants(step_s=0.002, layer_s=5e-5, matmul=1.6, attention=2.5, memory=1.25)


def measure(constants: Constants, noise: float = 0.0, seed: int = 0) -> list[Measurement]:
    draw = random.Random(seed)
    return [
        Measurement(
            work, device, "bfloat16", seconds(work, device, "bfloat16", constants) * draw.uniform(1 - noise, 1 + noise)
        )
        for work in WORKS
        for device in DEVICES
    ]


def test_seconds_are_the_larger_side_and_the_overheads() -> None:
    device = Device("cpu", "d", 1, {"float32": 10.0}, memory_bandwidth_bytes_per_s=100.0)
    work = Work(matmul_flops=20.0, attention_flops=10.0, memory_bytes=500.0, layers=3, steps=1)
    assert seconds(work, device, "float32") == 5.0
    assert seconds(work, device, "float32", TIGHT) == 1.0 + 1.5 + 8.0


def test_what_does_not_overlap_is_added_and_every_row_costs_its_share() -> None:
    device = Device("cpu", "d", 1, {"float32": 10.0}, memory_bandwidth_bytes_per_s=100.0)
    work = Work(matmul_flops=20.0, attention_flops=10.0, memory_bytes=500.0, layers=3, rows=4, steps=1)
    assert seconds(work, device, "float32", Constants(overlap=0.0)) == 3.0 + 5.0
    assert seconds(work, device, "float32", Constants(overlap=0.5)) == 3.0 / 2 + 5.0
    assert seconds(work, device, "float32", Constants(row_s=0.25)) == 5.0 + 1.0


def test_a_slower_processor_takes_longer_to_start_and_a_slower_card_does_not() -> None:
    work = Work(layers=3, steps=1)
    slow = Device("cpu", "d", 1, {"float32": 5.0}, memory_bandwidth_bytes_per_s=100.0)
    assert seconds(work, slow, "float32", replace(TIGHT, host_flops_per_s=10.0)) == 2 * (1.0 + 1.5)
    assert seconds(work, slow, "float32", TIGHT) == 1.0 + 1.5


def test_a_missing_dtype_is_computed_in_the_next_wider() -> None:
    v100 = device_facts("v100").device()
    assert peak_flops_per_s(v100, "float16") == 125e12
    assert peak_flops_per_s(v100, "bfloat16") == 15.7e12
    assert peak_flops_per_s(device_facts("a100").device(), "float8_e4m3fn") == 312e12
    assert peak_flops_per_s(Device("cpu", "d", 1), "float32") == UNMEASURED_FLOPS_PER_S


def test_exact_times_give_back_the_constants() -> None:
    found = fit(measure(TRUE))
    for name in Constants.__slots__:
        assert getattr(found.constants, name) == pytest.approx(getattr(TRUE, name), rel=0.01), name
    assert found.worst_error < 0.005


def test_it_is_seen_in_the_times_how_much_of_the_traffic_hides() -> None:
    plain_sum = replace(TRUE, overlap=0.0, row_s=1e-4)
    found = fit(measure(plain_sum))
    assert found.constants.overlap == 0.0
    assert found.constants.memory == pytest.approx(plain_sum.memory, rel=0.02)
    assert found.worst_error < 0.01


def test_overheads_scale_with_the_processor_if_they_are_said_to() -> None:
    on_a_host = replace(TRUE, host_flops_per_s=1e13)
    found = fit(measure(on_a_host), host_flops_per_s=1e13)
    assert found.constants.step_s == pytest.approx(TRUE.step_s, rel=0.01)
    assert fit(measure(on_a_host)).worst_error > 0.05 > found.worst_error


@pytest.mark.parametrize("cools_s", [0.004, 0.016])
def test_steps_after_pauses_of_different_length_tell_how_fast_the_device_forgets(cools_s: float) -> None:
    forgetful = replace(TRUE, cold_s=0.003, cools_s=cools_s)
    device = DEVICES[0]
    measured = [
        Measurement(work, device, "bfloat16", seconds(work, device, "bfloat16", forgetful, pause_s), pause_s=pause_s)
        for work in WORKS
        for pause_s in (0.0, 0.002, 0.01, 0.05)
    ]
    found = fit(measured)
    for name in Constants.__slots__:
        assert getattr(found.constants, name) == pytest.approx(getattr(forgetful, name), rel=0.01), name
    assert found.worst_error < 0.005
    cold = fit([replace(one, pause_s=inf) for one in measured])
    assert cold.constants.cold_s == 0.0
    assert cold.worst_error > 0.05


def test_noisy_times_give_constants_that_forecast_within_the_noise() -> None:
    measured = measure(TRUE, noise=0.1, seed=3)
    found = fit(measured)
    assert found.median_error < 0.07
    assert found.worst_error < 0.15
    assert found.constants.memory == pytest.approx(TRUE.memory, rel=0.05)
    unseen = left_out(measured)
    assert sorted(map(abs, unseen))[len(unseen) // 2] < 0.08


@examples(30)
@given(
    st.builds(
        Constants,
        step_s=st.floats(0, 0.02),
        layer_s=st.floats(0, 1e-3),
        matmul=st.floats(1, 5),
        attention=st.floats(1, 8),
        memory=st.floats(1, 4),
    )
)
def test_whatever_the_constants_are_their_times_are_forecast(true: Constants) -> None:
    found = fit(measure(true))
    assert found.worst_error < 0.02
    assert all(getattr(found.constants, name) >= 0 for name in Constants.__slots__)


def test_what_no_measurement_shows_stays_ideal() -> None:
    device = DEVICES[0]
    bound_by_memory = [Work(memory_bytes=amount) for amount in (1e9, 2e9, 5e9)]
    measured = [
        Measurement(work, device, "bfloat16", 2 * seconds(work, device, "bfloat16")) for work in bound_by_memory
    ]
    assert fit(measured).constants == replace(IDEAL, memory=pytest.approx(2.0))


def test_the_same_measurements_give_the_same_constants() -> None:
    measured = measure(TRUE, noise=0.2, seed=1)
    assert fit(measured) == fit(measured)


def test_a_fit_is_kept_with_its_residuals() -> None:
    found = fit([replace(m, label=f"run {i}") for i, m in enumerate(measure(TRUE, noise=0.1))])
    assert Fit.from_json(found.to_json()) == found
    assert len(json.loads(found.to_json())["residuals"]) == len(WORKS) * len(DEVICES)
    for text in ("{}", "[]", '{"constants": {"speed": 1}, "residuals": [], "labels": []}', "nonsense"):
        with pytest.raises(InvalidRequest, match="fit them again"):
            Fit.from_json(text)


def test_what_cannot_be_fitted_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="Nothing was measured"):
        fit([])
    with pytest.raises(InvalidRequest, match=r"warm-up took 0\.0 s"):
        fit([Measurement(WORKS[0], DEVICES[0], "bfloat16", 0.0, "warm-up")])
    with pytest.raises(InvalidRequest, match="measure more"):
        left_out(measure(TRUE)[:1])
