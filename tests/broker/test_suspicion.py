"""A client waits in vain for tokens: who hangs is put aside, who is merely slow may go on."""

from muster.broker.events import NodeAccused, PipelineSuspected
from tests.broker.actors import Actor, Stage
from tests.broker.test_state import pool_of


def beat(stage: Stage, actor: Actor, steps: int, computing_s: float = 0.0) -> None:
    stage.tell(actor, actor.beat(steps=steps, computing_s=computing_s))


def silent_pool(seconds: float) -> Stage:
    """Three machines have worked, a fourth stands by, and then nobody has finished a step for so long."""
    stage = pool_of(500, 500, 500, 500, speeds=(1, 0.9, 0.8, 0.05))
    for number in (1, 2, 3):
        beat(stage, stage.at(number), steps=7)
    stage.now_s += seconds
    for actor in stage.actors.values():
        beat(stage, actor, steps=7 * bool(actor.serving_epoch))
    return stage


def test_the_machine_whose_step_does_not_end_is_replaced_at_once() -> None:
    stage = silent_pool(2.0)
    beat(stage, stage.at(2), steps=7, computing_s=12.0)
    stage.say(PipelineSuspected(stage.route.epoch))
    assert set(stage.ranges()) == {1, 4, 3}


def test_whoever_hangs_gets_nothing_new_until_the_step_has_ended() -> None:
    stage = silent_pool(2.0)
    actor = stage.at(2)
    beat(stage, actor, steps=7, computing_s=12.0)
    stage.say(PipelineSuspected(stage.route.epoch))
    stage.cut(stage.at(4))
    for _ in range(30):
        stage.now_s += 1.0
        for other in stage.actors.values():
            if other.alive:
                beat(stage, other, steps=9, computing_s=99.0 + stage.now_s if other is actor else 0.0)
        assert 2 not in stage.ranges()
    beat(stage, actor, steps=8)
    stage.pass_time(40)
    stage.cut(stage.at(3))
    assert 2 in stage.ranges()


def test_a_pipeline_that_makes_steps_is_slow_and_not_dead() -> None:
    stage = silent_pool(2.0)
    before = stage.route
    beat(stage, stage.at(1), steps=8, computing_s=5.0)
    stage.say(PipelineSuspected(before.epoch))
    assert stage.route == before


def test_a_step_may_take_as_long_as_the_forecast_lets_expect() -> None:
    stage = silent_pool(2.0)
    before = stage.route
    stage.lifecycle.serving.longest_step_seconds = 1.0
    beat(stage, stage.at(2), steps=7, computing_s=12.0)
    stage.say(PipelineSuspected(before.epoch))
    assert stage.route == before


def test_a_pipeline_that_does_nothing_at_all_is_arranged_anew() -> None:
    stage = silent_pool(12.0)
    before = stage.route.epoch
    stage.say(PipelineSuspected(before))
    assert stage.route.epoch > before


def test_a_first_stage_that_cannot_be_reached_ends_the_pipeline_however_busy_it_is() -> None:
    stage = silent_pool(0.5)
    before = stage.route.epoch
    stage.say(PipelineSuspected(before, unreachable=True))
    assert stage.route.epoch > before


def test_a_suspicion_about_an_earlier_pipeline_changes_nothing() -> None:
    stage = silent_pool(12.0)
    before = stage.route
    stage.say(PipelineSuspected(before.epoch + 5))
    assert stage.route == before


def test_a_machine_that_breaks_the_rules_towards_a_client_is_left_out() -> None:
    stage = silent_pool(0.0)
    stage.say(NodeAccused(stage.at(2).id, "it sent what is no token"))
    assert set(stage.ranges()) == {1, 4, 3}
    stage.say(NodeAccused("f" * 64, "nobody knows it"))
    assert set(stage.ranges()) == {1, 4, 3}


def test_whoever_hangs_is_found_though_its_last_heartbeat_is_a_little_old() -> None:
    stage = silent_pool(12.0)
    beat(stage, stage.at(2), steps=7, computing_s=9.9)
    stage.say(PipelineSuspected(stage.route.epoch))
    assert set(stage.ranges()) == {1, 4, 3}
