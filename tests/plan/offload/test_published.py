"""FlexGen's planner, against figures that were computed from its equations by another program."""

from dataclasses import replace

import numpy as np
import pytest

from muster.cost.offload.flexgen import GIB, OPT, FlexGenMachine, flexgen_terms
from muster.plan.offload.published import forecast_published, plan_published, solve_published

T4 = FlexGenMachine()


@pytest.mark.parametrize(
    ("model", "prompt", "batch", "shares", "from_disk", "expected"),
    [
        ("opt-30b", 512, (48, 3), (0.2, 0.8, 0, 0, 1, 0, 0, 1, 0), 0.473, 7.14),
        ("opt-30b", 256, (160, 2), (0.1, 0.9, 0, 0, 1, 0, 0, 1, 0), 0.473, 12.97),
        ("opt-30b", 1024, (20, 4), (0.04, 0.96, 0, 0, 1, 0, 0, 1, 0), 0.473, 3.62),
        ("opt-175b", 512, (32, 8), (0, 0.5, 0.5, 0, 0, 1, 0, 1, 0), 0.473, 0.154),
        ("opt-175b", 512, (32, 8), (0, 0.5, 0.5, 0, 0, 1, 0, 1, 0), 1.6, 0.46),
        ("opt-175b", 512, (32, 8), (0, 0.5, 0.5, 0, 0, 1, 0, 1, 0), 2.0, 0.55),
        ("opt-6.7b", 512, (2, 1), (1, 0, 0, 1, 0, 0, 1, 0, 0), 0.473, 60.8),
    ],
)
def test_shares_typed_by_hand_get_the_rate_of_the_shipped_model(model, prompt, batch, shares, from_disk, expected):
    sizes, machine = replace(OPT[model], prompt=prompt), replace(T4, from_disk=from_disk * GIB)
    said = forecast_published(sizes, machine, *batch, np.array(shares, dtype=float))
    assert said.tokens_per_s == pytest.approx(expected, rel=0.006)


def test_the_policy_of_the_shipped_planner_for_30b_is_found_and_its_neighbours_are_worse():
    """The whole search is in `benchmarks/offload_plan.py`."""
    found = solve_published(OPT["opt-30b"], T4, 32, 5)
    assert found.tokens_per_s == pytest.approx(7.09, abs=0.005)
    assert found.shares == pytest.approx((0.124, 0.876, 0, 0, 0.948, 0.052, 0, 1, 0), abs=5e-4)
    for size in ((32, 4), (32, 6), (64, 2), (16, 10)):
        assert solve_published(OPT["opt-30b"], T4, *size).tokens_per_s < found.tokens_per_s


def test_its_search_takes_a_small_model_whole_and_one_sequence():
    found = plan_published(replace(OPT["opt-6.7b"], answer=8), replace(T4, cpu_bytes=GIB, disk_bytes=GIB))
    assert found.shares == pytest.approx((1, 0, 0, 1, 0, 0, 1, 0, 0))


@pytest.mark.parametrize("form", ["paper", "code"])
def test_a_policy_fills_no_memory_beyond_what_may_be_used(form):
    found = solve_published(OPT["opt-30b"], T4, 32, 2, form)
    peaks = flexgen_terms(OPT["opt-30b"], T4, 32, 64, form).peaks
    x = np.append(found.shares, 1.0)
    caps = {"gpu": T4.gpu_bytes, "cpu": T4.cpu_bytes, "disk": T4.disk_bytes}
    assert all(peak @ x <= T4.usable * caps[memory] * (1 + 1e-6) for memory in caps for peak in peaks[memory])
    again = forecast_published(OPT["opt-30b"], T4, 32, 2, np.array(found.shares), form)
    assert again.tokens_per_s == pytest.approx(found.tokens_per_s, rel=1e-6)


def test_the_paper_hides_loads_that_the_code_waits_for():
    shares = np.array([0.2, 0.8, 0, 0, 1, 0, 0, 1, 0])
    code, paper = (forecast_published(OPT["opt-30b"], T4, 48, 3, shares, form) for form in ("code", "paper"))
    assert paper.decode_s < 0.8 * code.decode_s


def test_nothing_is_planned_where_no_sequence_fits():
    assert plan_published(OPT["opt-175b"], replace(T4, disk_bytes=GIB)) is None
