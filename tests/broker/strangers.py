"""Pools whose machines are strangers, honest ones and liars. Knows no tests."""

from muster.broker.events import Exercise, Shown
from muster.broker.state import BrokerOptions
from muster.broker.view import nodes_view
from muster.spec.pool import Device
from muster.wire.messages.membership import Measured
from tests.broker.actors import MIB, Actor, Stage, node_id

STRANGERS = BrokerOptions()
HUGE = Measured(
    device=Device("cpu", "wonder", 64 * 2**40, {"bfloat16": 1e18}, 1e14, 1e14, 1e14), free_memory_bytes=64 * 2**40
)


def slow(exercise: Exercise) -> Shown:
    """What a laptop of 50 GFLOP/s does, which takes too long for more than sixteen times that."""
    return Shown(
        {dtype: 5e10 if rate <= 16 * 5e10 else 0.0 for dtype, rate in exercise.flops_per_s.items()},
        min(exercise.held_bytes, 256 * MIB),
    )


def honest_ring() -> Stage:
    """Three machines that serve and were there first."""
    stage = Stage(options=STRANGERS)
    for number in (1, 2, 3):
        stage.join(number, 500)
    stage.pass_time(2)
    assert set(stage.ranges()) == {1, 2, 3}
    return stage


def newcomer(stage: Stage, number: int, claim: Measured, show=None) -> Actor:
    actor = stage.dial(number)
    actor.show = show
    stage.tell(actor, claim)
    return actor


def view(stage: Stage, number: int) -> dict:
    return next(one for one in nodes_view(stage.state, (), stage.now_s, 0.0) if one["id"] == node_id(number))


def layers_of(stage: Stage, number: int) -> int:
    first, last = stage.ranges().get(number, (0, 0))
    return last - first
