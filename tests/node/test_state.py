"""What a node does next: decided without a clock, a socket or a tensor."""

from typing import Any

import pytest
from msgspec.structs import replace

from muster.errors import NotAllowed, WeightsInvalid
from muster.node.events import (
    DrainAsked,
    Drop,
    HeadLost,
    Heard,
    Load,
    NeighbourLost,
    Quit,
    Rejoin,
    Say,
    StageFailed,
    StageReady,
    Tick,
    Vitals,
)
from muster.node.runners.registry import PRODUCTION
from muster.node.state import MAX_STAGES, NodeState
from muster.spec.plan import Pipeline, ServeSettings, Stage
from muster.wire.messages.membership import Goodbye, Heartbeat, HeartbeatSeen, Refused, StageVitals, Welcome
from muster.wire.messages.placement import Assign, Loaded, LoadFailed, Release, StageLost

ME, OTHER = "a" * 64, "b" * 64


def assign(epoch: int = 1, index: int = 0) -> Assign:
    stages = (Stage(ME, 0, 2), Stage(OTHER, 2, 4))
    return Assign(
        epoch=epoch,
        model="tiny",
        manifest="00",
        dtype="float32",
        index=index,
        job="tiny",
        pipeline=Pipeline(stages, ServeSettings(num_pages=8, page_size=16, num_microbatches=2, prefill_tokens=512)),
        peers=(),
    )


def spoilt(assign: Assign, **changes: Any) -> Assign:
    """With other values for fields of the message, its pipeline or its settings, whichever has them."""
    own = {name: value for name, value in changes.items() if name in Assign.__struct_fields__}
    settings = {name: value for name, value in changes.items() if name in ServeSettings.__struct_fields__}
    stages = changes.get("stages", assign.stages)
    return replace(assign, **own, pipeline=Pipeline(stages, replace(assign.pipeline.serve, **settings)))


def joined() -> NodeState:
    state = NodeState(ME, PRODUCTION.check)
    state.handle(Heard(Welcome(heartbeat_s=1.0, lease_s=3.0, model="tiny")), 0.0)
    return state


def test_an_assignment_is_loaded_and_reported() -> None:
    state = joined()
    assert state.handle(Heard(assign()), 1.0) == [Load(assign())]
    assert state.handle(StageReady(1), 2.0) == [Say(Loaded(epoch=1))]


def test_the_same_assignment_twice_is_loaded_once() -> None:
    state = joined()
    state.handle(Heard(assign()), 1.0)
    assert state.handle(Heard(assign()), 1.1) == []


@pytest.mark.parametrize(
    "nonsense",
    [
        {"stages": ()},
        {"index": -1},
        {"index": 2},
        {"epoch": 0},
        {"num_pages": 0},
        {"num_pages": -8},
        {"num_pages": 2**60},
        {"page_size": 0},
        {"page_size": -16},
        {"num_pages": -8, "page_size": -16},
        {"num_microbatches": 0},
        {"num_microbatches": 2**40},
        {"prefill_tokens": 0},
        {"prefill_tokens": -(2**40)},
        {"prefill_tokens": 2**40},
        {"eos_token_ids": (1,) * 5000},
        {"stages": (Stage(ME, 0, 2), Stage(OTHER, 1, 4))},
        {"stages": (Stage(ME, 0, 2), Stage(OTHER, 3, 4))},
        {"stages": (Stage(ME, 1, 2), Stage(OTHER, 2, 4))},
        {"stages": (Stage(ME, -2, 2), Stage(OTHER, 2, 4))},
        {"stages": (Stage(ME, 0, 0), Stage(OTHER, 0, 4))},
        {"stages": (Stage(ME, 0, 2), Stage(ME, 2, 4))},
        {"stages": (Stage(ME, 0, 2), Stage(OTHER, 2, 10**6))},
    ],
)
def test_an_assignment_that_makes_no_sense_is_refused_before_anything_is_done_for_it(nonsense) -> None:
    (command,) = joined().handle(Heard(spoilt(assign(), **nonsense)), 1.0)
    assert isinstance(command, Say)
    assert isinstance(command.message, LoadFailed)
    assert command.message.code == "protocol_violation"


def test_a_head_cannot_pile_up_stages_on_one_node() -> None:
    state = joined()
    for epoch in range(1, MAX_STAGES + 1):
        assert state.handle(Heard(assign(epoch)), 1.0) == [Load(assign(epoch))]
    (command,) = state.handle(Heard(assign(MAX_STAGES + 1)), 1.0)
    assert isinstance(command, Say)
    assert isinstance(command.message, LoadFailed)
    state.handle(Heard(Release(epoch=1)), 1.0)
    assert state.handle(Heard(assign(MAX_STAGES + 1)), 1.0) == [Load(assign(MAX_STAGES + 1))]


def test_an_assignment_meant_for_another_node_is_refused() -> None:
    (command,) = joined().handle(Heard(assign(index=1)), 1.0)
    assert isinstance(command, Say)
    assert isinstance(command.message, LoadFailed)


def test_a_stage_index_out_of_range_is_refused_without_a_crash() -> None:
    (command,) = joined().handle(Heard(assign(index=-3)), 1.0)
    assert isinstance(command, Say)
    assert isinstance(command.message, LoadFailed)


def test_two_placements_are_held_side_by_side_until_one_is_released() -> None:
    state = joined()
    state.handle(Heard(assign(1)), 1.0)
    state.handle(StageReady(1), 2.0)
    state.handle(Heard(assign(2)), 2.0)
    assert state.handle(Heard(Release(epoch=1)), 3.0) == [Drop(1)]
    assert list(state.stages) == [2]


def test_a_stage_released_while_it_loads_is_dropped_when_it_arrives() -> None:
    state = joined()
    state.handle(Heard(assign()), 1.0)
    state.handle(Heard(Release(epoch=1)), 1.5)
    assert state.handle(StageReady(1), 2.0) == [Drop(1)]


def test_a_failed_load_says_why() -> None:
    state = joined()
    state.handle(Heard(assign()), 1.0)
    said, dropped = state.handle(StageFailed(1, WeightsInvalid("truncated")), 2.0)
    assert said == Say(LoadFailed(epoch=1, code="weights_invalid", reason="truncated"))
    assert dropped == Drop(1)


def test_heartbeats_go_out_once_a_second_with_the_epoch_that_is_served() -> None:
    state = joined()
    state.handle(Heard(assign(4)), 0.0)
    state.handle(StageReady(4), 2.0)
    assert state.handle(Tick(Vitals(99, (StageVitals(4, 2),))), 1.0) == [
        Say(Heartbeat(free_memory_bytes=99, stages=(StageVitals(4, 2),)))
    ]
    assert state.handle(Tick(Vitals(99, (StageVitals(4, 2),))), 1.5) == []


def test_a_silent_head_is_dialled_again_with_growing_patience() -> None:
    state = joined()
    assert not any(isinstance(command, Rejoin) for command in state.handle(Tick(Vitals(0)), 5.5)), "it may be busy"
    assert state.handle(Tick(Vitals(0)), 6.5) == [Rejoin(0.5)]
    assert state.handle(HeadLost(), 7.0) == [Rejoin(1.0)]
    assert state.handle(HeadLost(), 8.0) == [Rejoin(2.0)]


def test_a_head_that_answers_heartbeats_is_not_dialled_again() -> None:
    state = joined()
    state.handle(Heard(HeartbeatSeen()), 3.0)
    assert not any(isinstance(command, Rejoin) for command in state.handle(Tick(Vitals(0)), 5.5))


def test_rejoining_gives_up_the_stages_of_the_old_membership() -> None:
    state = joined()
    state.handle(Heard(assign()), 1.0)
    state.handle(StageReady(1), 2.0)
    state.handle(HeadLost(), 2.0)
    assert state.handle(Heard(Welcome(heartbeat_s=1.0, lease_s=3.0, model="tiny")), 3.0) == [Drop(1)]


def test_a_refusal_ends_the_node_with_the_heads_reason() -> None:
    (command,) = NodeState(ME, PRODUCTION.check).handle(Heard(Refused(code="invalid_api_key", reason="Banned.")), 0.0)
    assert isinstance(command, Quit)
    assert isinstance(command.error, NotAllowed)


def test_a_drain_asks_first_and_leaves_when_the_last_stage_is_released() -> None:
    state = joined()
    state.handle(Heard(assign()), 1.0)
    state.handle(StageReady(1), 2.0)
    assert state.handle(DrainAsked(60.0), 2.0) == [Say(Goodbye(drain=True))]
    assert state.handle(Heard(Release(epoch=1)), 5.0) == [Drop(1), Quit(None)]


def test_a_node_that_drains_leaves_when_the_head_is_gone_that_would_move_what_is_here() -> None:
    state = joined()
    state.handle(Heard(assign()), 1.0)
    state.handle(StageReady(1), 2.0)
    state.handle(DrainAsked(60.0), 2.0)
    assert state.handle(HeadLost(), 3.0) == [Quit(None)]


def test_a_node_that_drains_while_it_has_no_head_leaves_at_once() -> None:
    state = joined()
    state.handle(Heard(assign()), 1.0)
    state.handle(HeadLost(), 3.0)
    assert state.handle(DrainAsked(60.0), 4.0) == [Quit(None)]


def test_an_idle_node_leaves_at_once() -> None:
    assert joined().handle(DrainAsked(60.0), 2.0) == [Say(Goodbye()), Quit(None)]


def test_a_drain_that_takes_too_long_ends_with_an_error() -> None:
    state = joined()
    state.handle(Heard(assign()), 1.0)
    state.handle(StageReady(1), 2.0)
    state.handle(DrainAsked(60.0), 2.0)
    state.heard_at = 62.0
    said, ended = state.handle(Tick(Vitals(0)), 62.0)
    assert said == Say(Goodbye())
    assert isinstance(ended, Quit)
    assert ended.error is not None


def test_a_lost_neighbour_is_reported_only_for_a_stage_that_is_held() -> None:
    state = joined()
    assert state.handle(NeighbourLost(1, OTHER, "cut"), 2.0) == []
    state.handle(Heard(assign()), 1.0)
    assert state.handle(NeighbourLost(1, OTHER, "cut"), 2.0) == [Say(StageLost(epoch=1, peer=OTHER, reason="cut"))]


def test_a_node_that_is_refused_does_not_look_for_the_head_that_hangs_up() -> None:
    state = joined()
    (quitting,) = state.handle(Heard(Refused(code="invalid_api_key", reason="Banned; ask why.")), 1.0)
    assert isinstance(quitting, Quit)
    assert state.handle(HeadLost(), 1.1) == []


def test_a_failed_check_tells_what_led_to_it() -> None:
    state = joined()
    (load,) = state.handle(Heard(assign(5)), 1.0)
    assert load.cause == Heard(assign(5))
    state.check()
    state.rejoins = 1
    with pytest.raises(AssertionError, match=r"Heard\(message=Welcome\(") as failed:
        state.check()
    assert "-> Load(assign=Assign(epoch=5, job=tiny" in str(failed.value)
