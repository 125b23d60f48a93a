"""A pinned machine has its layers whenever it is here; while it is not, others have them, and the pool says so."""

from dataclasses import replace
from random import Random

import pytest

from muster.broker.events import DrainNode, PlanFound
from muster.broker.pipelines.job import JobOptions
from muster.broker.view import pins_view
from muster.plan.serve.one_pipeline import one_pipeline
from muster.plan.serve.options import Pin
from muster.spec.plan import Stage as Layers
from tests.broker.actors import PIPELINE, PLANNING, SERVED, Stage, measured, node_id
from tests.broker.test_adapting import pass_quickly, switches

SHAPE = SERVED.shape


def pinned_pool(*pins: Pin, sizes=(500, 500, 500), searches=False) -> Stage:
    stage = Stage(job=JobOptions(pins=pins), search=one_pipeline if searches else None)
    for number, size in enumerate(sizes, start=1):
        stage.join(number, size)
    stage.pass_time(2)
    return stage


def views(stage: Stage) -> list[tuple[bool, str]]:
    return [(view["kept"], view["reason"]) for view in pins_view(stage.state, stage.now_s)]


def test_pinned_machines_get_exactly_their_layers_and_others_the_rest():
    stage = pinned_pool(Pin("node-1", 5, 8), Pin("node-2", 0, 1))
    assert stage.ranges() == {2: (0, 1), 3: (1, 5), 1: (5, 8)}
    assert views(stage) == [(True, ""), (True, "")]


def test_a_machine_may_be_pinned_by_the_beginning_of_its_id():
    stage = Stage(job=JobOptions(pins=(Pin(node_id(1)[:63], 5, 8),)))
    for number in (0x21, 0x31, 1):
        stage.join(number, 500, name="the same")
    stage.pass_time(2)
    assert stage.ranges()[1] == (5, 8)


def test_a_pool_waits_for_its_pinned_machine_but_not_for_ever():
    stage = pinned_pool(Pin("late", 0, 4))
    stage.pass_time(50)
    assert stage.route is None
    assert "late" in stage.lifecycle.trouble
    stage.pass_time(15)
    assert stage.route is not None
    assert views(stage) == [(False, "late is not here; others hold layers 0 to 3 until it is.")]


def test_a_lost_pinned_machine_is_covered_at_once_and_gets_its_layers_again_after_a_pause():
    stage = pinned_pool(Pin("node-1", 5, 8))
    before = stage.ranges()
    stage.cut(stage.at(1))
    assert 1 not in stage.ranges()
    assert not views(stage)[0][0]
    stage.join(1, 500)
    stage.pass_time(20)
    assert 1 not in stage.ranges()
    assert "gets its layers" in views(stage)[0][1]
    stage.pass_time(20)
    assert stage.ranges()[1] == before[1] == (5, 8)


def test_a_pinned_machine_that_comes_and_goes_gets_its_layers_ever_more_rarely():
    stage = pinned_pool(Pin("node-1", 5, 8))
    before, turns = switches(stage), 60
    for _ in range(turns):
        stage.cut(stage.at(1))
        pass_quickly(stage, 10)
        stage.join(1, 500)
        pass_quickly(stage, 60)
    assert 2 <= switches(stage) - before < turns / 2


def test_a_drained_pinned_machine_goes():
    stage = pinned_pool(Pin("node-1", 5, 8))
    stage.say(DrainNode(stage.at(1).id))
    stage.pass_time(5)
    assert 1 not in stage.ranges()


def test_a_pin_that_its_machine_has_no_room_for_is_passed_over_and_explained():
    stage = pinned_pool(Pin("node-1", 0, 8))
    assert stage.route is not None
    ((kept, reason),) = views(stage)
    assert not kept
    assert "Layers 0 to 7 need" in reason
    assert "pin fewer layers to it" in reason


def test_pins_that_leave_the_others_too_much_are_passed_over_and_explained():
    stage = pinned_pool(Pin("node-1", 0, 1), sizes=(500, 500))
    assert stage.route is not None
    ((kept, reason),) = views(stage)
    assert not kept
    assert "cannot hold the other layers" in reason
    stage.join(3, 500)
    stage.pass_time(60)
    assert stage.ranges()[1] == (0, 1)


@pytest.mark.parametrize("lost", [1, 2, 3, 4])
def test_the_other_pins_outlive_a_repair_though_one_machine_could_hold_everything(lost):
    pins = {number: (2 * number - 2, 2 * number) for number in (1, 2, 3, 4)}
    stage = pinned_pool(*(Pin(f"node-{n}", *layers) for n, layers in pins.items()), sizes=(1000, 600, 600, 600))
    assert stage.ranges() == pins
    stage.cut(stage.at(lost))
    kept = [number for number, layers in stage.ranges().items() if pins[number] == layers]
    assert len(kept) >= 2
    stage.pass_time(200)
    kept = [number for number, layers in stage.ranges().items() if pins[number] == layers]
    assert len(kept) >= 2
    stage.join(lost, 1000 if lost == 1 else 600)
    stage.pass_time(300)
    assert stage.ranges() == pins


def test_the_beginning_of_an_id_that_several_machines_share_pins_none_of_them():
    stage = pinned_pool(Pin(node_id(1)[:8], 0, 2))
    stage.pass_time(70)
    assert stage.route is not None
    assert "3 machines are called 00000000" in views(stage)[0][1]


def test_a_pin_on_a_name_means_the_first_machine_that_came_with_it():
    stage = Stage(job=JobOptions(pins=(Pin("twin", 0, 2),)))
    for number in (1, 2, 3):
        stage.join(number, 500, name="twin" if number < 3 else "other")
    stage.pass_time(70)
    assert stage.route is not None
    assert stage.ranges()[1] == (0, 2)


@pytest.mark.parametrize("seed", [3, *(pytest.param(seed, marks=pytest.mark.chaos) for seed in range(3))])
def test_whatever_comes_and_goes_a_pin_is_kept_or_explained(seed):
    random = Random(seed)
    pins = (Pin("node-1", 2, 5), Pin("node-2", 6, 8))
    stage = pinned_pool(*pins, sizes=(500, 500, 500, 400))
    for _ in range(60):
        number = random.randint(1, 5)
        here = [actor for actor in stage.actors.values() if actor.alive and actor.id == node_id(number)]
        if here and random.random() < 0.6:
            stage.cut(here[0])
        elif here:
            stage.tell(here[0], measured(random.choice([300, 500, 900]), random.choice([0.5, 1.0, 4.0])))
        else:
            stage.join(number, random.choice([300, 500, 900]))
        pass_quickly(stage, random.choice([2, 40, 400]))
        for view in pins_view(stage.state, stage.now_s):
            held = stage.ranges().get(int(view["node"][-1])) if stage.route is not None else None
            assert view["kept"] == (held == (view["first"], view["last"]))
            assert view["kept"] or view["reason"]


def test_a_plan_found_aside_keeps_the_pins_or_is_not_taken():
    stage = pinned_pool(Pin("node-1", 5, 8), sizes=(500, 500, 500), searches=True)
    stage.join(4, 500, speed=50.0)
    stage.pass_time(60)
    wanted = stage.searches[-1]
    assert wanted.options.fixed == (Layers(node_id(1), 5, 8),)
    found = one_pipeline(SHAPE, wanted.pool, wanted.options)
    assert Layers(node_id(1), 5, 8) in found.pipelines[0].stages
    free = one_pipeline(SHAPE, wanted.pool, replace(PLANNING, fixed=()))
    assert Layers(node_id(1), 5, 8) not in free.pipelines[0].stages
    stage.say(PlanFound(PIPELINE, free))
    assert stage.ranges()[1] == (5, 8)
