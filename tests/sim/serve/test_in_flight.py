"""The head of a ring finds out how many steps keep the slowest stage busy, from what steps bring back."""

from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.sim.serve.in_flight import StepsInFlight
from muster.sim.serve.ring import BatchRules
from muster.sim.serve.rounds import READY, StepKind, period_s, steps_in_flight
from muster.sim.serve.simulate import simulate_serving
from muster.spec.workload import ServeWorkload
from tests.sim.rings import node, pipeline, plan, pool, shape


def after(steps: StepsInFlight, rounds: int, stage_s: list[float], latency_s: float) -> int:
    for _ in range(rounds):
        for _ in range(steps.limit):
            steps.observe(stage_s, latency_s)
    return steps.limit


@given(st.lists(st.floats(0.001, 1.0), min_size=1, max_size=8), st.floats(0.0, 4.0))
def test_the_law_gives_the_fewest_steps_whose_period_is_that_of_the_slowest_stage(
    stage_s: list[float], latency_s: float
):
    kinds = [StepKind(1.0, stage_s, [])]
    found = steps_in_flight(stage_s, latency_s, most=10**6)
    assert period_s(kinds, found, latency_s) == pytest.approx(max(stage_s))
    assert found == 1 or period_s(kinds, found - 1, latency_s) > max(stage_s)


def test_a_ring_that_grows_longer_gets_more_steps_within_a_few_rounds_and_gives_them_back():
    steps = StepsInFlight(start=4)
    near = [0.01] * 4
    assert after(steps, 5, near, 0.0) == 4 + READY
    assert ceil(4 + 51.2) + READY <= after(steps, 80, near, 0.512) <= ceil(4 + 51.2) + READY + 2
    assert after(steps, 400, near, 0.0) == 4 + READY + 1, "one too many is no reason to change"


def test_a_placement_that_was_misled_is_put_right():
    assert after(StepsInFlight(start=16), 40, [0.05] * 4, 0.0) == 4 + READY + 1
    assert after(StepsInFlight(start=2), 20, [0.05] * 4, 0.8) == 20 + READY


def test_rounds_that_differ_ask_for_more_than_rounds_that_do_not():
    steps, even = StepsInFlight(start=4), StepsInFlight(start=4)
    for turn in range(400):
        steps.observe([0.05 if turn % 2 else 0.15] * 4, 0.2)
        even.observe([0.1] * 4, 0.2)
    assert steps.limit > even.limit


def test_however_far_it_is_there_are_no_more_steps_than_allowed():
    assert after(StepsInFlight(start=4, most=32), 20, [0.001] * 2, 60.0) == 32
    assert after(StepsInFlight(start=1, most=1), 20, [0.001], 60.0) == 1


@settings(deadline=None, max_examples=25)
@given(st.floats(0.001, 0.02), st.floats(0.0001, 0.01), st.floats(0.0, 1.0), st.integers(64, 1024))
def test_steps_that_grow_shorter_as_there_are_more_of_them_settle(
    fixed_s: float, row_s: float, latency_s: float, sequences: int
):
    """A step takes fixed + row x sequences / steps: every change of the number changes what it follows from."""
    steps = StepsInFlight(start=4)
    for _ in range(50):
        last = steps.limit
        seconds = fixed_s + row_s * sequences / last
        for _ in range(last):
            steps.observe([seconds] * 4, latency_s)
    assert abs(steps.limit - last) <= max(1, last // 32)
    assert steps.limit == 256 or steps.limit * seconds >= (4 * seconds + latency_s) * 0.98 - seconds


def test_a_simulated_ring_that_learns_keeps_its_slowest_stage_busy_however_far_its_machines_are():
    work = ServeWorkload(prompt_tokens=16, output_tokens=24, concurrency=240)
    for latency_s in (0.0, 0.064):
        fleet = pool(*(node(name, 0.02) for name in "abcd"), latency_s=latency_s)
        four = plan(pipeline("abcd", pages=4000, microbatches=4).with_work(batch=16))
        fixed, learnt = (
            simulate_serving(four, fleet, shape(), work, num_requests=700, rules=BatchRules(learns=learns))
            for learns in (False, True)
        )
        assert max(stage.share for stage in learnt.stages) > 0.85
        assert learnt.tokens_per_s > (0.95 if latency_s == 0.0 else 1.5) * fixed.tokens_per_s


def test_where_a_wire_is_busy_all_the_time_its_queue_asks_for_no_more_steps():
    """As many as there are, each behind the others on the wire: the latency grows with their number for ever."""
    steps, wire_s = StepsInFlight(start=4), 0.1
    for _ in range(2000):
        steps.observe([0.02] * 4, max(0.1, steps.limit * wire_s - 0.08))
    assert steps.limit <= 12
