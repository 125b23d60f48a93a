"""A job makes as many pipelines as its machines suffice for, and gives up those that cannot be repaired."""

from dataclasses import replace
from random import Random

import pytest

from muster.broker.events import Dissolved, DrainNode, PipelineId, Placed, Remembered, TrustNode
from muster.broker.members.trust import TrustOptions
from muster.broker.pipelines.job import JobOptions, PlannedPipeline
from muster.broker.pipelines.serve import serve_job
from muster.broker.state import BrokerOptions
from muster.broker.view import pins_view, status_view
from muster.plan.serve.options import Pin
from muster.spec.plan import ServeSettings
from tests.broker.actors import PLANNING, SECRET, SERVED, Stage, measured, node_id

OPTIONS = JobOptions(planning=PLANNING, most_pipelines=8)
Holders = set[frozenset[int]]


def pool_of(*sizes: float, options: JobOptions = OPTIONS, remembered: Remembered | None = None) -> Stage:
    stage = Stage(remembered, jobs=[serve_job(SERVED, options=options)])
    for number, size in enumerate(sizes, start=1):
        stage.join(number, size)
    stage.pass_time(8)
    return stage


def holders(stage: Stage) -> Holders:
    routes = [route for route in stage.route_of.values() if route is not None]
    return {frozenset(int(node, 16) for node in route.pipeline.nodes()) for route in routes}


def test_machines_that_each_hold_the_model_make_a_pipeline_each() -> None:
    stage = pool_of(1500, 1500, 1500)
    assert holders(stage) == {frozenset({1}), frozenset({2}), frozenset({3})}
    view = status_view(stage.state)
    assert [one["pipeline"] for one in view["jobs"][0]["pipelines"]] == ["model/0", "model/1", "model/2"]
    assert view["ready"]


def test_machines_that_hold_it_in_pairs_make_pairs_and_the_odd_one_helps() -> None:
    stage = pool_of(700, 700, 700, 700, 700)
    assert sorted(map(len, holders(stage))) == [2, 3]


def test_a_large_machine_serves_alone_and_small_ones_together() -> None:
    stage = pool_of(400, 2000, 400, 400)
    assert holders(stage) == {frozenset({2}), frozenset({1, 3, 4})}


def test_a_machine_that_joins_later_and_suffices_makes_another_pipeline_and_disturbs_nobody() -> None:
    stage = pool_of(1500)
    before = dict(stage.route_of)
    stage.join(2, 1500)
    stage.pass_time(4)
    assert holders(stage) == {frozenset({1}), frozenset({2})}
    assert stage.route_of[PipelineId("model")] == before[PipelineId("model")]


def test_where_a_machine_of_one_pipeline_is_lost_another_goes_on_and_the_rest_of_the_first_is_used_again() -> None:
    stage = pool_of(700, 700, 700, 700)
    first = next(iter(holders(stage)))
    others = holders(stage) - {first}
    gone, left = sorted(first)
    stage.cut(stage.at(gone))
    stage.pass_time(4)
    assert holders(stage) == others
    stage.join(9, 700)
    stage.pass_time(8)
    assert holders(stage) == others | {frozenset({left, 9})}


def test_an_extra_pipeline_that_cannot_be_repaired_is_given_up_and_forgotten() -> None:
    stage = pool_of(1500, 1500)
    extra = stage.route_of[PipelineId("model", 1)]
    assert extra is not None
    stage.cut(stage.at(int(extra.node, 16)))
    stage.pass_time(4)
    assert stage.route_of[PipelineId("model", 1)] is None
    assert [one["pipeline"] for one in status_view(stage.state)["jobs"][0]["pipelines"]] == ["model/0"]
    assert [record.id for record in stage.saved if isinstance(record, Dissolved)] == [PipelineId("model", 1)]


def test_where_the_first_pipeline_is_lost_for_good_the_others_go_on() -> None:
    stage = pool_of(1500, 1500)
    first = stage.route_of[PipelineId("model")]
    assert first is not None
    stage.cut(stage.at(int(first.node, 16)))
    stage.pass_time(4)
    assert len(holders(stage)) == 1
    assert status_view(stage.state)["ready"]
    assert status_view(stage.state)["reason"] == ""


def test_a_drained_machine_leaves_its_pipeline_at_once_where_another_serves() -> None:
    stage = pool_of(1500, 1500)
    route = stage.route_of[PipelineId("model", 1)]
    assert route is not None
    number = int(route.node, 16)
    stage.say(DrainNode(node_id(number)))
    stage.pass_time(3)
    assert holders(stage) == {frozenset({1, 2} - {number})}


def test_a_restarted_head_finds_every_pipeline_again_and_makes_none_of_those_that_were_given_up() -> None:
    first = pool_of(1500, 1500, 1500)
    placed = {record.id: record for record in first.saved if isinstance(record, Placed)}
    assert len(placed) == 3
    again = Stage(
        Remembered(50, {id: one.pipeline for id, one in placed.items()}, secrets=[(SECRET, 1e12)]), jobs=first.jobs
    )
    for number in (3, 2, 1):
        again.join(number, 1500)
    again.pass_time(8)
    for id, record in placed.items():
        route = again.route_of[id]
        assert route is not None
        assert route.pipeline.stages == record.pipeline.stages


def test_machines_on_trial_make_no_pipeline_of_their_own_beside_one_that_serves() -> None:
    stage = Stage(jobs=[serve_job(SERVED, options=OPTIONS)], options=BrokerOptions(trust=TrustOptions()))
    stage.join(1, 1500)
    stage.say(TrustNode(node_id(1)))
    stage.pass_time(4)
    assert holders(stage) == {frozenset({1})}
    stage.join(2, 1500)
    stage.pass_time(8)
    assert holders(stage) == {frozenset({1})}, "it would see the whole model, and is not needed"
    stage.say(TrustNode(node_id(2)))
    stage.pass_time(8)
    assert holders(stage) == {frozenset({1}), frozenset({2})}


def test_two_machines_whose_link_was_down_make_a_pipeline_once_it_is_used_again() -> None:
    stage = pool_of(1500)
    for _ in range(2):
        stage.state.members.report_broken(node_id(2), node_id(3), stage.now_s)
    stage.join(2, 700)
    stage.join(3, 700)
    stage.pass_time(8)
    assert holders(stage) == {frozenset({1})}
    stage.pass_time(60)
    assert holders(stage) == {frozenset({1}), frozenset({2, 3})}


def test_the_pipelines_of_a_plan_get_exactly_their_stages_and_settings_and_leave_each_other_alone() -> None:
    work = ServeSettings(num_pages=40, page_size=16, num_microbatches=5, batch=3)
    plan = (
        PlannedPipeline((Pin("node-1", 0, 5), Pin("node-2", 5, 8)), work),
        PlannedPipeline((Pin("node-3", 0, 2), Pin("node-4", 2, 8)), work),
    )
    stage = pool_of(700, 700, 700, 700, options=replace(OPTIONS, most_pipelines=1, planned=plan))
    for number, planned in enumerate(plan):
        route = stage.route_of[PipelineId("model", number)]
        assert route is not None
        got = [(f"node-{int(one.node, 16)}", one.first, one.last) for one in route.pipeline.stages]
        assert got == [(pin.node, pin.first, pin.last) for pin in planned.pins]
        assert (route.pipeline.serve.num_microbatches, route.pipeline.serve.batch) == (5, 3)
        assert route.pipeline.serve.num_pages == 40
    assert all(view["kept"] for view in pins_view(stage.state, stage.now_s))
    stage.cut(stage.at(1))
    stage.pass_time(30)
    assert holders(stage) == {frozenset({3, 4})}, "what is planned for another is not taken for a repair"
    stage.join(1, 700)
    stage.pass_time(8)
    assert holders(stage) == {frozenset({1, 2}), frozenset({3, 4})}


def test_what_is_left_of_one_planned_pipeline_is_not_taken_to_repair_another_while_a_third_serves() -> None:
    plan = tuple(PlannedPipeline((Pin(f"node-{n}", 0, 4), Pin(f"node-{n + 1}", 4, 8))) for n in (1, 3, 5))
    stage = pool_of(*[700] * 6, options=replace(OPTIONS, most_pipelines=1, planned=plan))
    for lost in (3, 1):
        stage.cut(stage.at(lost))
        stage.pass_time(5)
    assert holders(stage) == {frozenset({5, 6})}, "2 and 4 would suffice together"
    stage.cut(stage.at(5))
    stage.pass_time(5)
    assert len(holders(stage)) == 1, "where nobody is served, nobody keeps a machine for itself"


@pytest.mark.parametrize("seed", range(2))
def test_whatever_comes_and_goes_the_books_hold(seed: int) -> None:
    """`Stage.say` checks them after every event."""
    random = Random(seed)
    stage = pool_of(1500, 700, 700)
    for _ in range(30):
        here = [actor for actor in stage.actors.values() if actor.alive]
        what = random.choice(["join", "join", "cut", "measure", "drain", "time", "slow", "fail"])
        stage.auto = what != "slow"
        loads = [(actor, epoch) for actor in here for epoch in actor.stages if epoch not in actor.loaded]
        if what == "join":
            stage.join(random.randint(1, 12), random.choice([300, 700, 1500]), random.choice([0.5, 1, 4]))
        elif what == "cut" and here:
            stage.cut(random.choice(here))
        elif what == "measure" and here:
            stage.tell(random.choice(here), measured(random.choice([300, 700, 1600]), 1.0))
        elif what == "drain" and here:
            stage.say(DrainNode(random.choice(here).id))
        elif what == "fail" and loads:
            stage.fail_load(*random.choice(loads))
        stage.pass_time(random.choice([0.5, 2.0, 20.0]), step_s=0.5)
    stage.auto = True
    for number in range(1, 13):
        if (actor := stage.actors.get(number)) is not None and actor.alive:
            stage.cut(actor)
        stage.join(number + 20, 2000)
    stage.pass_time(120, step_s=5.0)
    assert len(holders(stage)) == 8
