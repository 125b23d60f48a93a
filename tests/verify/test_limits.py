"""Limits: few honest windows lie above them, what is larger does, and too little to go by is said."""

import numpy as np
import pytest

from muster.errors import InvalidRequest
from muster.spec.receipt import TOKENS_PER_BLOCK
from muster.verify.calibrating import FLOOR, calibrated, confidence, margin_limit, surprise_limit
from muster.verify.judging import judge
from muster.verify.limits import DriftLimits, block_means

RANDOM = np.random.default_rng(3)
HONEST = [0.003 * np.exp(0.1 * RANDOM.standard_normal(8)) for _ in range(200)]


def test_no_more_honest_windows_lie_above_than_was_allowed() -> None:
    limits = calibrated(HONEST[:100], 1e-3)
    fresh = 0.003 * np.exp(0.1 * RANDOM.standard_normal(100_000))
    low, high = confidence(int((fresh > limits.drift[0]).sum()), len(fresh))
    assert low <= 1e-3
    assert high < 2e-3
    assert limits.of(8) < limits.of(4) < limits.of(1) < 0.006


def test_a_longer_window_tells_a_smaller_difference() -> None:
    limits = calibrated(HONEST, 1e-5)
    slightly = np.full(8 * TOKENS_PER_BLOCK, 0.0039)
    assert judge(slightly[:TOKENS_PER_BLOCK], limits).passes
    assert judge(slightly, limits).faults[0].startswith("what it computed is 1.")


def test_a_cheat_in_one_block_of_many_is_found() -> None:
    one = np.full(20 * TOKENS_PER_BLOCK, 0.003)
    one[7 * TOKENS_PER_BLOCK : 8 * TOKENS_PER_BLOCK] = 0.02
    assert not judge(one, calibrated(HONEST, 1e-5)).passes
    one[0] = np.inf
    assert not judge(one, calibrated(HONEST, 1e-5)).passes


def test_tokens_are_judged_by_their_margins_and_their_luck() -> None:
    limits = DriftLimits((0.01,), 1e-5, 100, margin=0.2, surprise=4.0)
    quiet, nothing = np.full(64, 0.003), np.zeros(64)
    assert judge(quiet, limits, nothing, nothing).passes
    behind = nothing.copy()
    behind[9] = 0.3
    assert "1.5 times as far behind" in judge(quiet, limits, behind, nothing).faults[0]
    assert "1.25 times as unlikely" in judge(quiet, limits, nothing, np.full(64, -5 / 8)).faults[0]
    assert judge(quiet, limits, nothing, np.full(64, 3 / 8)).passes


def test_margins_limits_grow_with_the_tokens_and_never_fall_below_what_was_seen() -> None:
    margins = np.where(RANDOM.random(5000) < 0.02, RANDOM.exponential(0.02, 5000), 0.0)
    few, many = (margin_limit(margins, 1e-5, tokens) for tokens in (64, 4096))
    assert margins.max() <= few < many < 1
    assert margin_limit(np.zeros(100), 1e-5, 64) < 1e-3
    assert 4 < surprise_limit(RANDOM.standard_normal(1000), 1e-5) < 5


def test_too_few_windows_and_broken_ones_set_no_limit() -> None:
    with pytest.raises(InvalidRequest, match="8 honest windows are too few"):
        calibrated(HONEST[:1], 1e-5)
    with pytest.raises(InvalidRequest, match="no number"):
        calibrated([*HONEST, np.array([np.nan])], 1e-5)
    assert calibrated([np.zeros(40)], 1e-5).drift[0] == FLOOR


def test_blocks_are_whole_and_the_interval_is_that_of_clopper_and_pearson() -> None:
    assert len(block_means(np.ones(TOKENS_PER_BLOCK * 3 + 5))) == 3
    assert block_means(np.ones(5)).tolist() == [1.0]
    assert confidence(0, 10_000)[1] == pytest.approx(3.69e-4, rel=1e-2)
    assert confidence(5, 5)[1] == 1.0
