"""One stage on one machine: shares that no others beat, within the memory that is lent."""

from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest

from muster.cost.offload.load import stage_sizes
from muster.cost.offload.rates import tier_rates
from muster.cost.offload.room import cache_tokens
from muster.cost.offload.shares import policy_of, shares_of
from muster.cost.offload.step import BlockSize, overlaps, places, together
from muster.plan.offload.block import BlockProblem, best_shares
from tests.plan.offload.small import machine, shape

SIZE = BlockSize(4, 3, prompt=64, answer=32, prompt_tokens=128)


def problem(model=None, node=None, skew=0.0):
    model, node = model or shape(), node or machine()
    return BlockProblem(model, 0, model.num_layers, node.device, tier_rates(node.device, model.dtype), skew)


def on_a_grid(parts: int, steps: int):
    thirds = [(a, b, steps - a - b) for a in range(steps + 1) for b in range(steps + 1 - a)]
    for chosen in product(thirds, repeat=parts):
        yield np.array(chosen, dtype=float).ravel() / steps


@pytest.mark.parametrize("order", ["rows", "zigzag", "diagonal"])
@pytest.mark.parametrize("attention", ["device", "host"])
def test_no_shares_of_a_grid_are_faster(order, attention):
    asked = problem(node=machine(device=50e6, host=45e6, disk=200e6))
    size = replace(SIZE, order=order, attention=attention)
    found = best_shares(asked, size)
    assert asked.fits(size, np.array(found.shares))
    beaten = [asked.seconds(size, x) for x in _grid(asked, size)]
    assert beaten
    assert found.seconds <= min(beaten) * (1 + 1e-6)


def _grid(asked, size):
    """Weights and cache in quarters; hidden states on one tier; the embedding where the planner puts it."""
    at = places(asked.sizes)
    for two in on_a_grid(2, 4):
        for hidden in np.eye(3):
            x = np.zeros(3 * len(at))
            x[at["every step"]], x[at["cache"]], x[at["hidden"]] = two[:3], two[3:], hidden
            if "embedding" in at:
                x[at["embedding"]] = [asked.embedding == tier for tier in ("device", "host", "disk")]
            if asked.fits(size, x):
                yield x


def test_what_fits_stays_on_the_device():
    found = best_shares(problem(node=machine(device=200e6, host=0)), SIZE)
    assert np.array(found.shares).reshape(-1, 3)[:, 0].min() == 1


def test_nothing_is_planned_for_a_machine_that_cannot_hold_it():
    assert best_shares(problem(node=machine(device=40e6, host=10e6)), SIZE) is None
    assert best_shares(problem(node=machine(device=1e6, host=500e6)), SIZE) is None


def test_of_six_actors_the_longest_counts_and_what_does_not_hide():
    seconds = np.array([4.0, 1.0, 2.0, 0.0, 3.0, 0.0])
    assert together(seconds, (1.0,) * 5) == 4
    assert together(seconds, (0.0,) * 5) == 10
    assert together(seconds, (1.0, 0.5, 1.0, 1.0, 1.0)) == 5


def test_attention_on_the_host_hides_behind_other_microbatches_only():
    rates = tier_rates(machine(attention_overlap=0.8).device, "float16")
    assert overlaps(rates, 1)[0] == 0
    assert overlaps(rates, 4)[0] == pytest.approx(0.6)


def test_experts_that_few_want_leave_the_device_first_and_the_least_wanted_of_them_first():
    asked = problem(shape(experts=16), machine(device=45e6, host=200e6), skew=1.0)
    size = replace(SIZE, microbatch=1, num_microbatches=1)
    shares = np.array(best_shares(asked, size).shares).reshape(-1, 3)
    groups = shares[: len(asked.sizes.groups) - 1, 0]
    assert groups[0] == 1
    assert all(one >= other - 1e-6 for one, other in pairwise(groups))
    assert 0 < groups.sum() < len(groups)


def test_an_expert_is_wanted_by_its_share_of_tokens_and_all_of_them_by_many():
    (_, experts, *_), tokens = stage_sizes(shape(experts=16), 0, 6).groups, 4
    assert experts.wanted(1) == pytest.approx(1 / 16)
    assert experts.wanted(tokens) == pytest.approx(1 - (15 / 16) ** tokens)
    assert experts.wanted(1000) == pytest.approx(1)


@pytest.mark.parametrize(("prompt", "answer"), [(512, 32), (512, 512), (128, 1024)])
def test_a_diagonal_block_holds_more_sequences_in_the_same_cache(prompt, answer):
    size = BlockSize(16, 16, prompt, answer)
    gain = cache_tokens(size) / cache_tokens(replace(size, order="diagonal"))
    assert gain == pytest.approx((2 * prompt + 2 * answer) / (2 * prompt + answer), rel=0.02)


@pytest.mark.parametrize("experts", [0, 16])
def test_a_policy_says_the_shares_that_were_found_and_no_more_memory(experts):
    asked = problem(shape(experts=experts), machine(device=45e6, host=50e6, disk=200e6))
    found = best_shares(asked, SIZE)
    again = shares_of(asked.sizes, policy_of(asked.sizes, np.array(found.shares), SIZE))
    assert again == pytest.approx(np.array(found.shares), abs=3e-5)
    lent = [asked.device.memory_bytes, asked.device.host_memory_bytes, asked.device.disk_bytes]
    assert (asked.room(SIZE) @ np.append(again, 1.0) <= np.array(lent)).all()
