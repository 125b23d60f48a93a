"""Machines that are to leave: what runs on them moves first, and nothing comes back to them too soon."""

import pytest

from muster.broker.events import DrainNode
from muster.broker.members.membership import DRAIN_KEPT_S
from muster.wire.messages.membership import Goodbye
from muster.wire.messages.placement import Release
from tests.broker.actors import node_id, pool_of


@pytest.mark.parametrize("away_s", [0, 8, 300])
def test_who_was_told_to_drain_stays_so_when_its_connection_was_lost(away_s: int) -> None:
    stage = pool_of(500, 500, 500, speeds=(1, 1, 0.1))
    leaving = stage.at(1)
    stage.say(DrainNode(leaving.id))
    stage.pass_time(30)
    if away_s:
        stage.cut(leaving)
        stage.pass_time(away_s, step_s=1.0)
    stage.join(1, 500)  # at once, over a ghost that the head has not noticed
    stage.pass_time(200, step_s=1.0)
    assert set(stage.ranges()) == {2, 3}
    stage.cut(stage.at(1))
    stage.join(1, 500)
    stage.pass_time(100, step_s=1.0)
    assert set(stage.ranges()) == {2, 3}, "the order outlives a second loss as well"


@pytest.mark.parametrize("order", [True, False], ids=["by the operator", "by its owner"])
@pytest.mark.parametrize("ending", ["goodbye", "drain", "time"])
def test_a_drained_machine_that_has_left_in_good_order_or_for_long_works_again(order: bool, ending: str) -> None:
    stage = pool_of(500, 500, 500, speeds=(1, 1, 0.1))
    leaving = stage.at(1)
    stage.say(DrainNode(leaving.id)) if order else stage.tell(leaving, Goodbye(drain=True))
    if ending != "time":
        stage.tell(leaving, Goodbye(drain=ending == "drain"))
    if leaving.alive:
        stage.cut(leaving)
    stage.pass_time(DRAIN_KEPT_S + 2 if ending == "time" else 2, step_s=1.0)
    stage.join(1, 500)
    stage.pass_time(100, step_s=1.0)
    assert set(stage.ranges()) == {1, 2}


def test_a_node_that_is_needed_goes_on_serving_while_it_drains():
    stage = pool_of(500, 500)
    stage.say(DrainNode(node_id(1)))
    stage.pass_time(10)
    assert set(stage.ranges()) == {1, 2}
    stage.join(3, 500)
    stage.pass_time(2)
    assert set(stage.ranges()) == {2, 3}


def test_an_owner_whose_machine_nobody_can_replace_may_leave_when_nothing_runs() -> None:
    stage = pool_of(500, 500)
    leaving, stays = stage.at(1), stage.at(2)
    first = stage.at(next(iter(stage.ranges())))
    assert stage.route is not None
    epoch = stage.route.epoch
    first.streams = 1
    stage.pass_time(2)
    stage.tell(leaving, Goodbye(drain=True))
    stage.pass_time(10)
    assert set(stage.ranges()) == {1, 2}, "somebody's answer is on its way"
    first.streams = 0
    stage.pass_time(5)
    assert stage.route is None
    assert Release(epoch=epoch) in leaving.heard
    assert Release(epoch=epoch) in stays.heard


def test_a_goodbye_is_a_loss_at_once_and_with_drain_a_move():
    stage = pool_of(500, 500, 500, 500)
    first, second, *_ = stage.ranges()
    stage.tell(stage.at(first), Goodbye())
    assert first not in stage.ranges()
    leaving = stage.at(second)
    stage.tell(leaving, Goodbye(drain=True))
    stage.pass_time(3)
    assert leaving.alive
    if stage.route is not None and len(stage.state.members.members) > 2:
        assert Release(epoch=1) in leaving.heard or second in stage.ranges()
