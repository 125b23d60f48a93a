"""Who lets steps vanish is found by what its neighbours count, whatever it says of itself."""

from collections.abc import Callable

import pytest

from muster.broker.events import PipelineSuspected
from muster.wire.messages.membership import StageVitals
from tests.broker.actors import Stage
from tests.broker.test_state import pool_of

Counts = list[tuple[int, int]]
Lie = Callable[[tuple[int, int]], tuple[int, int]]
BEGUN = 12
"""Steps that the first stage has begun before somebody swallows one."""


def ring_of_three() -> Stage:
    """Three machines of one speed serve, and two slower ones stand by."""
    stage = pool_of(500, 500, 500, 500, 500, speeds=(1, 1, 1, 0.1, 0.1))
    assert set(stage.ranges()) == {1, 2, 3}
    return stage


def members_of(stage: Stage) -> list[int]:
    return [int(node, 16) for node in stage.lifecycle.serving.nodes]


def live(stage: Stage, seconds: float, counts: Callable[[int], Counts], **facts: float) -> None:
    """Every second each of the ring says what it has counted; they all claim to compute more and more steps."""
    epoch = stage.lifecycle.serving.epoch
    for second in range(round(seconds)):
        if stage.lifecycle.serving is None or stage.lifecycle.serving.epoch != epoch:
            return
        said = dict(zip(members_of(stage), counts(second), strict=True))
        for actor in [actor for actor in stage.actors.values() if actor.alive]:
            received, sent = said.get(int(actor.id, 16), (0, 0))
            vitals = tuple(StageVitals(held, 1, received, sent) for held in sorted(actor.loaded))
            stage.tell(actor, actor.beat(stages=vitals, steps=BEGUN + second, busy_s=second * 0.1, **facts))
        stage.pass_quietly(1.0)


def swallowed(position: int, lie: Lie) -> Counts:
    """What each has counted when the machine at `position` passes nothing on; it may say anything."""
    passed = [(BEGUN - (index > position or index == 0), BEGUN - (index > position)) for index in range(3)]
    passed[position] = lie((BEGUN, BEGUN - 1))
    return passed


def denied_by(position: int) -> Counts:
    """What each has counted when the machine at `position` says that the last step never came."""
    if position == 0:
        return [(BEGUN - 1, BEGUN), (BEGUN, BEGUN), (BEGUN, BEGUN)]
    return swallowed(position, lambda true: (BEGUN - 1, BEGUN - 1))


@pytest.mark.parametrize("position", [1, 2])
@pytest.mark.parametrize("says", ["nothing", "that it sends", "that it works on and on"])
def test_who_lets_steps_vanish_is_left_out_within_ten_seconds(position: int, says: str) -> None:
    stage = ring_of_three()
    liar = members_of(stage)[position]

    def counts(second: int) -> Counts:
        grown = BEGUN + 5 * second
        lies = {"nothing": (BEGUN, BEGUN - 1), "that it sends": (BEGUN, BEGUN)}
        return swallowed(position, lambda true: lies.get(says, (grown, grown)))

    began_s, before = stage.now_s, set(members_of(stage))
    live(stage, 10, counts, computing_s=0.01)
    assert set(members_of(stage)) >= before - {liar}
    assert liar not in members_of(stage)
    assert stage.now_s - began_s <= 10
    assert not any(stage.state.members.is_resting(stage.at(other).id, stage.now_s) for other in before - {liar})


def test_who_denies_what_came_is_found_when_a_second_neighbour_contradicts_it() -> None:
    stage = ring_of_three()
    liar = members_of(stage)[1]
    for _ in range(3):
        if liar not in members_of(stage):
            break
        stage.lifecycle.serving.longest_step_seconds = 0.01  # the spare is slow, and would be given more time
        denied = denied_by(members_of(stage).index(liar))
        live(stage, 10, lambda second, denied=denied: denied)
    assert liar not in members_of(stage)
    assert stage.state.members.record(stage.at(liar).id, stage.now_s).failures == 1


def test_a_first_machine_that_begins_nothing_while_clients_wait_is_left_out() -> None:
    stage = ring_of_three()
    liar = members_of(stage)[0]
    for _ in range(3):
        stage.say(PipelineSuspected(stage.lifecycle.serving.epoch))
        live(stage, 12, lambda second: [(BEGUN, BEGUN)] * 3)
    assert liar not in members_of(stage)


@pytest.mark.parametrize("idle", [True, False])
def test_a_ring_that_moves_or_rests_is_left_alone(idle: bool) -> None:
    stage = ring_of_three()
    epoch = stage.lifecycle.serving.epoch
    for second in range(40):
        step = BEGUN if idle else BEGUN + second // 4  # a step in four seconds
        live(stage, 1, lambda _, step=step: [(step - (not idle), step), (step, step), (step, step)])
    assert stage.lifecycle.serving.epoch == epoch


def test_a_ring_that_was_idle_for_long_may_take_its_time_for_the_next_step() -> None:
    stage = ring_of_three()
    epoch = stage.lifecycle.serving.epoch
    live(stage, 60, lambda second: [(BEGUN, BEGUN)] * 3)
    live(stage, 4, lambda second: [(BEGUN, BEGUN + 1), (BEGUN, BEGUN), (BEGUN, BEGUN)])
    assert stage.lifecycle.serving.epoch == epoch


def test_steps_may_take_as_long_as_the_forecast_and_the_links_let_expect() -> None:
    stage = ring_of_three()
    stage.lifecycle.serving.longest_step_seconds = 1.0
    epoch = stage.lifecycle.serving.epoch
    live(stage, 15, lambda second: swallowed(1, lambda true: true))
    assert stage.lifecycle.serving.epoch == epoch


def test_a_machine_that_says_that_it_computes_gets_the_time_of_one_that_hangs() -> None:
    stage = ring_of_three()
    liar = members_of(stage)[1]
    live(stage, 8, lambda second: swallowed(1, lambda true: true), computing_s=8.0)
    assert liar in members_of(stage)
    live(stage, 5, lambda second: swallowed(1, lambda true: true), computing_s=12.0)
    assert liar not in members_of(stage)
