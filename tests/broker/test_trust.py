"""Newcomers show what they claim before anything is entrusted to them, and liars about their size get nothing by it."""

from dataclasses import replace

import pytest

from muster.broker.events import Exercised, Remembered, Shown, TrustChanged, TrustNode
from muster.broker.members.trust import CHECK_EVERY_S, CHECKS, SLACK, WORK_S, WORK_STEPS, TrustOptions
from muster.broker.pipelines.entrusted import SHARE, whole_bytes
from muster.broker.state import BrokerOptions
from muster.spec.pool import Device
from muster.wire.messages.membership import Heartbeat, Measured, PeerMeasured, StageVitals
from tests.broker.actors import HEAD, MIB, SECRET, Stage, measured, node_id
from tests.broker.strangers import HUGE, STRANGERS, honest_ring, layers_of, newcomer, slow, view

# --- proving ----------------------------------------------------------------------------------------------------------


def test_a_machine_that_has_shown_nothing_never_serves():
    stage = Stage(options=STRANGERS)
    newcomer(stage, 1, measured(60_000))
    stage.pass_time(300)
    assert stage.routes == []
    assert view(stage, 1)["state"] == "proving"
    assert len(stage.at(1).exercises) == 1, "one exercise at a time"


def test_one_that_never_answers_in_time_is_asked_for_less_and_less_and_less_often():
    stage = Stage(options=STRANGERS)
    actor = newcomer(stage, 1, HUGE, lambda exercise: Shown(dict.fromkeys(exercise.flops_per_s, 0.0)))
    stage.pass_time(600)
    assert stage.routes == []
    asked = [exercise.flops_per_s["bfloat16"] for exercise in actor.exercises]
    assert asked == sorted(asked, reverse=True)
    assert 5 <= len(asked) <= 20
    assert "has shown only 0 FLOP/s" in view(stage, 1)["doubt"]


def test_the_first_machine_of_an_empty_pool_serves_as_soon_as_it_has_shown_its_speed():
    trusting, strangers = Stage(), Stage(options=STRANGERS)
    for stage in (trusting, strangers):
        stage.join(1, 5000)
        stage.pass_time(1.5)
    assert strangers.ranges() == trusting.ranges() == {1: (0, 8)}
    exercise = strangers.at(1).exercises[0]
    assert exercise.held_bytes <= 64 * MIB
    assert view(strangers, 1)["trust"] == "established"


def test_what_an_honest_machine_claims_counts_in_full():
    stage = Stage(options=STRANGERS)
    stage.join(1, 5000, speed=3.0)
    assert stage.state.members.members[node_id(1)].device == measured(5000, 3.0).device


def test_a_speed_that_was_shown_in_part_is_believed_in_part_and_so_is_the_rest():
    stage = Stage(options=STRANGERS)
    newcomer(stage, 1, measured(500, 2.0), lambda exercise: Shown({"bfloat16": 1e11}, exercise.held_bytes))
    device = stage.state.members.members[node_id(1)].device
    assert device.flops_per_s == {"bfloat16": 1e11}
    assert device.memory_bandwidth_bytes_per_s == pytest.approx(2e10 / 20)
    assert "1e+11 FLOP/s in bfloat16 of 2e+12" in view(stage, 1)["doubt"]


@pytest.mark.parametrize("share", [0.3, 1.0, 3.0])
def test_a_quarter_of_a_claim_is_enough_on_a_busy_machine(share):
    stage = Stage(options=STRANGERS)
    newcomer(stage, 1, measured(500), lambda exercise: Shown({"bfloat16": share * 1e12}, exercise.held_bytes))
    assert stage.state.members.members[node_id(1)].device == measured(500).device
    assert view(stage, 1)["doubt"] == ""


def test_a_better_try_repairs_a_name():
    stage = honest_ring()
    actor = newcomer(stage, 4, measured(500), slow)
    assert view(stage, 4)["doubt"]
    actor.show = None
    stage.pass_time(CHECK_EVERY_S + 1)
    actor.show = lambda exercise: Shown(dict(exercise.flops_per_s), exercise.held_bytes)
    stage.cut(actor)
    actor = stage.join(4, 500)
    stage.pass_time(3 * CHECK_EVERY_S)
    assert not view(stage, 4)["doubt"]
    assert stage.state.members.members[actor.id].device == measured(500).device


def test_a_wrong_answer_is_said_and_counts_for_nothing():
    stage = Stage(options=STRANGERS)
    fault = "its answer in bfloat16 was wrong"
    newcomer(stage, 1, measured(5000), lambda exercise: Shown({"bfloat16": 0.0}, 0, fault=fault))
    stage.pass_time(60)
    assert stage.routes == []
    assert fault in view(stage, 1)["doubt"]


def test_a_machine_that_comes_back_need_not_show_it_again_but_another_device_must():
    stage = honest_ring()
    stage.cut(stage.at(1))
    again = stage.join(1, 500)
    assert again.exercises == []
    stage.pass_time(3)
    other = measured(500)
    other = Measured(device=replace(other.device, name="another"), free_memory_bytes=other.free_memory_bytes)
    again.show = None
    stage.tell(again, other)
    assert len(again.exercises) == 1
    assert view(stage, 1)["state"] == "proving"
    assert 1 not in stage.ranges()


def test_a_new_claim_does_not_outgrow_what_was_shown():
    stage = honest_ring()
    stage.tell(stage.at(1), measured(500, speed=1000.0))
    assert stage.state.members.members[node_id(1)].device.flops_per_s["bfloat16"] == 1e12


def test_what_comes_of_an_exercise_after_its_machine_has_left_is_nobodys():
    stage = Stage(options=STRANGERS)
    actor = newcomer(stage, 1, measured(5000))
    stage.cut(actor)
    actor.show = lambda exercise: Shown({"bfloat16": 1e12}, exercise.held_bytes)
    stage.say(Exercised(actor.connection, actor.show(actor.exercises[0])))
    stage.pass_time(3)
    assert stage.routes == []


# --- claims that no device makes good ---------------------------------------------------------------------------------


def test_a_claim_beyond_every_device_is_clipped_and_said():
    stage = honest_ring()
    newcomer(stage, 9, HUGE, slow)
    one = view(stage, 9)
    assert "65,536 GiB of memory" in one["doubt"]
    assert "1e+18 FLOP/s" in one["doubt"]
    assert one["memory_bytes"] < 2**40


def test_a_named_device_has_what_it_has():
    stage = Stage(options=STRANGERS)
    claim = Device("cuda", "NVIDIA GeForce RTX 3090", 80 * 2**30, {"bfloat16": 1e15}, 3e12)
    newcomer(stage, 1, Measured(device=claim, free_memory_bytes=80 * 2**30))
    claimed = stage.state.members.members[node_id(1)].claimed
    assert claimed.memory_bytes == pytest.approx(30 * 2**30)
    assert claimed.flops_per_s["bfloat16"] == pytest.approx(71e12 * 1.25)
    assert "one NVIDIA GeForce RTX 3090 has" in view(stage, 1)["doubt"]


# --- the liar about size ----------------------------------------------------------------------------------------------


def test_a_liar_about_its_size_never_displaces_an_honest_ring():
    stage = honest_ring()
    before = stage.route
    liar = newcomer(stage, 9, HUGE, slow)
    stage.pass_time(1200, step_s=1.0)
    assert stage.route == before
    assert view(stage, 9)["trust"] == "on trial"
    assert len(liar.exercises) < 20


@pytest.mark.parametrize("seconds", [30, 120, 210])
def test_one_that_computes_fast_gets_a_part_at_first_and_never_all_of_it(seconds):
    stage = honest_ring()
    newcomer(stage, 9, HUGE, lambda exercise: Shown(dict(exercise.flops_per_s), exercise.held_bytes))
    stage.pass_time(seconds)
    assert layers_of(stage, 9) <= 4
    assert len(stage.ranges()) > 1


def test_a_repair_gives_a_newcomer_no_more_than_a_part_while_the_others_suffice():
    stage = Stage(options=STRANGERS)
    for number in (1, 2, 3, 4):
        stage.join(number, 700)
    stage.pass_time(2)
    newcomer(stage, 9, measured(60_000, 50.0), lambda exercise: Shown(dict(exercise.flops_per_s), exercise.held_bytes))
    stage.cut(stage.at(next(iter(stage.ranges()))))
    stage.pass_time(5)
    assert layers_of(stage, 9) <= 4


def test_where_the_others_do_not_suffice_a_newcomer_serves_and_is_established_by_that():
    stage = honest_ring()
    stage.join(9, 60_000)
    stage.cut(stage.at(1))
    stage.cut(stage.at(2))
    stage.pass_time(5)
    assert layers_of(stage, 9) >= 4
    assert view(stage, 9)["trust"] == "established"


def test_memory_counts_as_far_as_it_was_shown():
    stage = honest_ring()
    newcomer(stage, 9, measured(60_000, 50.0), lambda exercise: Shown(dict(exercise.flops_per_s), 8 * MIB))
    stage.pass_time(100)
    assert layers_of(stage, 9) == 0
    assert "8 MiB of memory of 64 asked for" in view(stage, 9)["doubt"]


# --- how trust grows --------------------------------------------------------------------------------------------------


def test_checks_that_confirm_every_claim_are_as_good_as_work():
    stage = honest_ring()
    actor = stage.join(9, 400)
    stage.pass_time((CHECKS - 2) * CHECK_EVERY_S)
    assert view(stage, 9)["trust"] == "on trial"
    stage.pass_time(2 * CHECK_EVERY_S)
    assert view(stage, 9)["trust"] == "established"
    assert len(actor.exercises) == CHECKS
    sizes = [exercise.held_bytes for exercise in actor.exercises]
    assert sizes[0] < sizes[-1] <= 400 * MIB / SLACK
    stage.pass_time(600)
    assert len(actor.exercises) == CHECKS, "an established machine is left alone"


def test_an_honest_fast_machine_takes_over_once_it_is_established():
    stage = honest_ring()
    stage.join(9, 60_000, speed=100.0)
    for second in range(int(WORK_S) + 60):
        stage.now_s += 1.0
        worked(stage, 10 * second)
        assert layers_of(stage, 9) <= 4 or view(stage, 9)["trust"] == "established"
        stage.pass_quietly(0.25)
    stage.pass_time(120)
    assert layers_of(stage, 9) == 8


def worked(stage: Stage, steps: int) -> None:
    """Every machine says that so many steps came to it and left it."""
    for actor in stage.actors.values():
        vitals = tuple(StageVitals(epoch, 0, steps, steps) for epoch in sorted(actor.loaded))
        if actor.alive:
            stage.tell(actor, Heartbeat(free_memory_bytes=0, stages=vitals, steps=steps, busy_s=steps / 100))


def ring_with_a_newcomer() -> Stage:
    """Node 9 is on trial and holds a part, for the only other machine that could is very slow."""
    stage = Stage(options=STRANGERS)
    for number in (1, 2, 3, 4):
        stage.join(number, 400, speed=1e-3 if number == 4 else 1.0)
    stage.pass_time(2)
    assert set(stage.ranges()) == {1, 2, 3}
    stage.state.members.establish([node_id(4)], stage.now_s)
    stage.join(9, 60_000, speed=100.0)
    stage.pass_time(CHECK_EVERY_S + 5)
    stage.cut(stage.at(1))
    stage.pass_time(5)
    assert 0 < layers_of(stage, 9) <= 4
    assert view(stage, 9)["trust"] == "on trial"
    return stage


def test_work_that_neighbours_have_seen_establishes_a_machine():
    stage = ring_with_a_newcomer()
    for second in range(int(WORK_S) + 5):
        stage.now_s += 1.0
        worked(stage, 10 * second)
        stage.pass_quietly(0.25)
    assert view(stage, 9)["trust"] == "established"
    assert 10 * WORK_S > WORK_STEPS


def test_work_that_only_the_machine_itself_has_seen_does_not():
    stage = ring_with_a_newcomer()
    for second in range(int(WORK_S) + 5):
        stage.now_s += 1.0
        for actor in [actor for actor in stage.actors.values() if actor.alive]:
            steps = 10 * second if actor.id == node_id(9) else 0
            vitals = tuple(StageVitals(epoch, 0, steps, steps) for epoch in sorted(actor.loaded))
            stage.tell(actor, Heartbeat(free_memory_bytes=0, stages=vitals, steps=steps))
        stage.pass_quietly(0.25)
    assert view(stage, 9)["trust"] == "on trial"


def test_a_failure_sets_a_machine_on_trial_back():
    stage = honest_ring()
    stage.join(9, 200)
    stage.pass_time((CHECKS - 2) * CHECK_EVERY_S + 5)
    stage.state.members.failed(node_id(9), stage.now_s)
    stage.pass_time(CHECK_EVERY_S + 60)
    assert view(stage, 9)["trust"] == "on trial"


def test_machines_that_served_before_a_restart_are_established_still():
    first = honest_ring()
    assert first.route is not None
    remembered = Remembered(
        epoch=20, pipelines={first.lifecycle.id: first.route.pipeline}, known=[node_id(1)], secrets=[(SECRET, 1e12)]
    )
    stage = Stage(remembered, STRANGERS)
    stage.join(9, 60_000, speed=100.0)
    for number in (1, 2, 3):
        stage.join(number, 500)
    stage.pass_time(10)
    assert 9 not in stage.ranges()
    assert stage.at(1).exercises, "but they show what they claim"


# --- the operator's word ----------------------------------------------------------------------------------------------


def test_a_machine_of_the_operators_own_shows_nothing_and_serves_at_once():
    stage = Stage(options=BrokerOptions(trust=TrustOptions(own=[node_id(1)])))
    actor = stage.join(1, 5000)
    stage.pass_time(1.5)
    assert actor.exercises == []
    assert layers_of(stage, 1) == 8
    assert view(stage, 1)["trust"] == "own"


def test_the_operator_trusts_a_machine_and_takes_it_back():
    stage = honest_ring()
    actor = newcomer(stage, 9, measured(60_000, 100.0))
    stage.say(TrustNode(actor.id))
    assert TrustChanged(actor.id, own=True) in stage.saved
    stage.pass_time(60)
    assert layers_of(stage, 9) == 8
    stage.say(TrustNode(actor.id, own=False))
    stage.pass_time(5)
    assert 9 not in stage.ranges(), "it has shown nothing yet"
    remembered = Remembered(own=[actor.id], secrets=[(SECRET, 1e12)])
    assert Stage(remembered, STRANGERS).state.members.is_own(actor.id)


# --- links ------------------------------------------------------------------------------------------------------------


def link(stage: Stage, a: int, b: int):
    members = [stage.state.members.members[node_id(number)] for number in (a, b)]
    return stage.state.members.links(members, stage.now_s)[node_id(a), node_id(b)]


def test_a_link_counts_as_the_worse_of_what_both_ends_have_measured():
    stage = honest_ring()
    stage.tell(stage.at(1), PeerMeasured(peer=node_id(2), round_trip_s=0.0, bandwidth_bytes_per_s=1e14))
    stage.tell(stage.at(2), PeerMeasured(peer=node_id(1), round_trip_s=0.2, bandwidth_bytes_per_s=1e6))
    for pair in ((1, 2), (2, 1)):
        assert link(stage, *pair).latency_s == pytest.approx(0.1)
        assert link(stage, *pair).bandwidth_bytes_per_s == 1e6


def test_nobody_is_nearer_to_the_head_than_the_head_finds():
    stage = Stage(options=STRANGERS)
    newcomer(stage, 1, measured(500), lambda exercise: Shown(dict(exercise.flops_per_s), 0, round_trip_s=0.3))
    stage.tell(stage.at(1), PeerMeasured(peer=HEAD, round_trip_s=0.001, bandwidth_bytes_per_s=1e7))
    assert stage.state.members.members[node_id(1)].links[HEAD].latency_s == pytest.approx(0.15)


def test_half_a_model_is_less_than_any_machine_needs_for_all_of_it():
    job = Stage().jobs[0]
    assert SHARE * whole_bytes(job) < job.model.shape.weight_bytes(0, job.model.shape.num_layers)
