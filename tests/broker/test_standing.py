"""What one machine has shown: odd claims, sizes and years of failures harm nobody, and nothing moves without a gain."""

from dataclasses import replace

import pytest

from muster.broker.events import Exercise, Exercised, Remembered, Shown, TrustNode
from muster.broker.members.trust import CHECK_EVERY_S, CHECKS, MOST_HELD_BYTES, Standing
from muster.broker.pipelines.job import JobOptions
from muster.broker.state import BrokerOptions
from muster.plan.serve.options import Pin
from muster.spec.pool import Device
from muster.verify import memory, speed
from muster.wire.messages.membership import Measured
from tests.broker.actors import MIB, SECRET, Stage, honest, measured, node_id
from tests.broker.strangers import STRANGERS, honest_ring, layers_of, newcomer, view

GIB = 2**30


def claim(flops_per_s: dict[str, float], bandwidth: float = 2e10, memory_bytes: int = 60_000 * MIB) -> Measured:
    device = Device("cpu", "fake", memory_bytes, flops_per_s, bandwidth, bandwidth, bandwidth)
    return Measured(device=device, free_memory_bytes=memory_bytes)


def in_whole_rows(exercise: Exercise) -> Shown:
    """As a real machine does it: it holds what an exercise of this size has, and knows three dtypes."""
    held = memory.sized(b"", exercise.held_bytes).rows * memory.ROW_BYTES
    rates = {dtype: rate for dtype, rate in exercise.flops_per_s.items() if dtype in speed.DTYPES}
    return Shown(rates, min(held, exercise.held_bytes) if held <= exercise.held_bytes else 0)


def checked(device: Device, most_bytes: int, checks: int) -> Standing:
    standing, now_s = Standing(), 0.0
    standing.claims(device)
    for _ in range(checks):
        assert standing.is_due(now_s)
        standing.has_exercised(device, in_whole_rows(standing.exercise(device, most_bytes)), now_s)
        now_s += CHECK_EVERY_S
    return standing


# --- claims ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flops_per_s", [{}, {"float32": 0.0}, {"int8": 1e15}, {"wonder": 1e18, "float64": 1e17}])
def test_a_claim_that_no_exercise_can_show_gains_nothing(flops_per_s: dict[str, float]) -> None:
    stage = honest_ring()
    before = stage.route
    liar = newcomer(
        stage, 9, claim(flops_per_s, bandwidth=1e14), lambda asked: Shown({"float32": 5e9}, asked.held_bytes)
    )
    assert set(liar.exercises[0].flops_per_s) == {"float32"}
    device = stage.state.members.members[node_id(9)].device
    assert device is not None
    assert max(device.flops_per_s.values(), default=0.0) <= 5e9
    assert device.memory_bandwidth_bytes_per_s <= 5e9
    stage.pass_time(CHECKS * CHECK_EVERY_S + 60)
    assert stage.route == before


def test_a_machine_that_fails_for_years_is_asked_every_minute_and_breaks_nothing() -> None:
    device, standing, now_s = measured(500).device, Standing(), 0.0
    for _ in range(3000):
        exercise = standing.exercise(device, GIB)
        assert exercise.flops_per_s["bfloat16"] > 0
        standing.has_exercised(device, Shown({"bfloat16": 0.0}, fault="it hung up"), now_s)
        assert standing.next_s - now_s <= 60.0
        now_s = standing.next_s


@pytest.mark.parametrize("memory_bytes", [10**9 + 7, 3 * GIB + 12345, 80 * GIB, 2000 * GIB])
@pytest.mark.parametrize("most_bytes", [10**9 + 1, 800 * GIB + 1])
def test_machines_of_any_size_are_established_by_checks_of_models_of_any_size(
    memory_bytes: int, most_bytes: int
) -> None:
    device = replace(measured(500).device, memory_bytes=memory_bytes)
    standing = checked(device, most_bytes, CHECKS)
    assert standing.doubt == ""
    assert standing.established
    assert standing.held_bytes <= memory_bytes / 4
    assert standing.entrusted_bytes(0) >= 0.999 * min(memory_bytes, most_bytes)


def test_whoever_has_held_the_largest_exercise_is_believed_the_rest() -> None:
    standing = checked(replace(measured(500).device, memory_bytes=80 * GIB), 800 * GIB, CHECKS)
    assert standing.held_bytes == MOST_HELD_BYTES


def test_an_established_machine_that_is_in_doubt_may_show_better() -> None:
    stage = Stage(options=STRANGERS)
    stage.join(1, 5000)
    actor = newcomer(stage, 2, measured(500), lambda asked: Shown({"bfloat16": 1e11}, asked.held_bytes))
    stage.state.members.establish([actor.id], stage.now_s)
    assert view(stage, 2)["doubt"]
    actor.show = honest
    stage.pass_time(3 * CHECK_EVERY_S)
    assert not view(stage, 2)["doubt"]
    assert stage.state.members.members[actor.id].device == measured(500).device


def test_an_established_machine_is_asked_for_no_memory_which_its_layers_may_still_take() -> None:
    stage = honest_ring()
    remembered = Remembered(epoch=20, pipelines={stage.lifecycle.id: stage.route.pipeline}, secrets=[(SECRET, 1e12)])
    again = Stage(remembered, STRANGERS)
    for number in (1, 2, 3):
        again.join(number, 500)
        (exercise,) = again.at(number).exercises
        assert exercise.held_bytes == 0
        assert view(again, number)["doubt"] == ""


# --- what moves, and what does not ------------------------------------------------------------------------------------


def test_a_pool_of_newcomers_alone_serves_as_soon_as_and_as_one_of_trusted_machines() -> None:
    trusting, strangers = Stage(), Stage(options=STRANGERS)
    for stage in (trusting, strangers):
        for number in (1, 2, 3, 4):
            stage.join(number, 500)
        stage.pass_time(1.25)
    assert strangers.ranges() == trusting.ranges() != {}


def test_nothing_moves_because_somebody_became_established() -> None:
    trusting, strangers = Stage(), Stage(options=STRANGERS)
    for stage in (trusting, strangers):
        for number in (1, 2, 3, 4):
            stage.join(number, 500)
        stage.pass_time(60)
        stage.join(5, 500)
        stage.join(6, 400)
        before = stage.route
        stage.pass_time(CHECKS * CHECK_EVERY_S + 90, step_s=1.0)
        assert stage.route == before
    assert view(strangers, 5)["trust"] == view(strangers, 6)["trust"] == "established"


def test_what_a_machine_failed_to_show_because_it_was_given_layers_is_not_held_against_it() -> None:
    stage = honest_ring()
    stage.join(9, 500)
    actor = stage.at(9)
    actor.show = None
    stage.pass_time(CHECK_EVERY_S + 1)
    assert len(actor.exercises) == 2
    stage.cut(stage.at(1))
    stage.cut(stage.at(2))
    stage.pass_time(5)
    assert layers_of(stage, 9) > 0
    stage.say(Exercised(actor.connection, Shown({"bfloat16": 0.0}, fault="it hung up")))
    stage.pass_time(5)
    assert view(stage, 9)["doubt"] == ""
    assert layers_of(stage, 9) > 0


# --- the operator's word ----------------------------------------------------------------------------------------------


def test_a_pinned_newcomer_gets_its_layers_as_soon_as_it_has_shown_its_speed() -> None:
    own = BrokerOptions(trust=replace(STRANGERS.trust, own=[node_id(1)]))
    stage = Stage(options=own, job=JobOptions(pins=(Pin(node_id(2), 0, 7),)))
    stage.join(1, 5000)
    stage.join(2, 5000)
    stage.pass_time(5)
    assert stage.ranges() == {2: (0, 7), 1: (7, 8)}
    assert view(stage, 2)["trust"] in ("on trial", "established")


def test_a_machine_that_is_distrusted_begins_anew_and_its_claim_is_bounded_again() -> None:
    stage = honest_ring()
    actor = stage.dial(9)
    stage.say(TrustNode(actor.id))
    stage.tell(actor, claim({"bfloat16": 1e18}, memory_bytes=60 * 2**40))
    assert view(stage, 9)["doubt"] == ""
    actor.show = None
    stage.say(TrustNode(actor.id, own=False))
    assert view(stage, 9)["trust"] == "proving"
    assert "It claims more than any known device has" in view(stage, 9)["doubt"]
    assert len(actor.exercises) == 1
    stage.say(TrustNode(actor.id))
    assert view(stage, 9)["memory_bytes"] == 60 * 2**40
