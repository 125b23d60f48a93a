"""Better plans come from a search aside: asked for when the pool has changed, weighed like any other; it may fail."""

import asyncio
import threading
from dataclasses import replace

import pytest

from muster.broker.events import PlanFound, Search
from muster.broker.pipelines.searching import Searching
from muster.errors import DoesNotFit
from muster.plan.quick.planner import as_plan, place
from muster.plan.serve.one_pipeline import one_pipeline
from muster.spec.plan import Pipeline, Plan
from muster.spec.plan import Stage as Layers
from muster.spec.pool import Pool
from tests.broker.actors import PIPELINE, PLANNING, SERVED, Stage, node_id
from tests.broker.live_broker import Pool as Head
from tests.broker.test_state import pool_of

SHAPE = SERVED.shape


def searching_pool(*speeds: float) -> Stage:
    stage = Stage(search=one_pipeline)
    for number, speed in enumerate(speeds, start=1):
        stage.join(number, 500, speed)
    stage.pass_time(2)
    assert stage.route is not None
    return stage


def until_asked(stage: Stage, seconds: float = 40) -> Search:
    for _ in range(round(seconds / 0.25)):
        stage.pass_time(0.25)
        if stage.searches:
            return stage.searches.pop()
    raise AssertionError("nobody was asked to search")


def plan_of(stage: Stage, *stages: tuple[int, int, int], pages: int = 64) -> Plan:
    pool = stage.state.members.pool(stage.now_s)
    return as_plan(
        SHAPE, pool, [Layers(node_id(n), first, last) for n, first, last in stages], pages, PLANNING, "found"
    )


def test_a_search_is_asked_for_once_and_its_plan_is_used_if_it_is_worth_it():
    stage = searching_pool(1, 1, 0.1)
    stage.join(4, 500, 20.0)
    stage.join(5, 500, 20.0)
    wanted = until_asked(stage)
    assert {node.id for node in wanted.pool.nodes} == {node_id(number) for number in range(1, 6)}
    stage.pass_time(300)
    assert stage.searches == [], "the first has not come to an end"
    stage.say(PlanFound(PIPELINE, plan_of(stage, (4, 0, 4), (5, 4, 8))))
    assert set(stage.ranges()) == {4, 5}


def test_a_search_that_found_nothing_leaves_the_planners_own_word():
    stage = searching_pool(1, 1, 0.1)
    stage.join(4, 500, 20.0)
    stage.join(5, 500, 20.0)
    until_asked(stage)
    stage.say(PlanFound(PIPELINE, None))
    assert {4, 5} <= set(stage.ranges())


@pytest.mark.parametrize("why", ["gone", "too small", "little cache", "devices", "replicas", "not worth it"])
def test_a_plan_that_cannot_be_or_is_not_worth_it_changes_nothing(why):
    stage = searching_pool(1, 1)
    before = stage.ranges()
    stage.lifecycle.pool_changed = True
    until_asked(stage)
    other = {1: 2, 2: 1}
    layers = [
        (other[number], first, last) for number, (first, last) in sorted(before.items(), key=lambda item: item[1])
    ]
    plan = plan_of(stage, *layers)
    (pipeline,) = plan.pipelines
    whole: tuple[Pipeline, ...] = {
        "gone": (replace(pipeline, stages=(Layers(node_id(77), 0, 8),)),),
        "too small": (replace(pipeline, stages=(Layers(node_id(1), 0, 8),)),),
        "little cache": (pipeline.with_work(num_pages=2),),
        "devices": (replace(pipeline, stages=tuple(replace(one, devices=(0, 1)) for one in pipeline.stages)),),
        "replicas": (pipeline, pipeline),
        "not worth it": (pipeline,),
    }[why]
    stage.say(PlanFound(PIPELINE, replace(plan, pipelines=whole)))
    assert stage.ranges() == before


def test_a_plan_that_comes_while_something_is_mended_is_too_late():
    stage = searching_pool(1, 1, 0.1)
    stage.lifecycle.pool_changed = True
    until_asked(stage)
    late = plan_of(stage, (1, 0, 4), (2, 4, 8))
    stage.cut(stage.at(1))
    assert set(stage.ranges()) == {2, 3}
    stage.say(PlanFound(PIPELINE, late))
    assert set(stage.ranges()) == {2, 3}


def test_what_fits_on_one_machine_is_not_split_by_a_search():
    stage = Stage(search=one_pipeline)
    for number in (1, 2):
        stage.join(number, 2000)
    stage.pass_time(2)
    assert len(stage.ranges()) == 1
    stage.lifecycle.pool_changed = True
    until_asked(stage)
    stage.say(PlanFound(PIPELINE, plan_of(stage, (1, 0, 4), (2, 4, 8))))
    assert len(stage.ranges()) == 1


def test_the_serve_planner_finds_pipelines_that_the_runtime_can_run():
    stage = pool_of(400, 500, 350, 500, speeds=(1, 2, 1, 0.5))
    pool = stage.state.members.pool(stage.now_s)
    plan = one_pipeline(SHAPE, pool, PLANNING)
    (pipeline,) = plan.pipelines
    assert [layers.first for layers in pipeline.stages] == [0, *(layers.last for layers in pipeline.stages[:-1])]
    assert pipeline.stages[-1].last == SHAPE.num_layers
    assert pipeline.serve.num_pages >= PLANNING.min_pages(SHAPE)
    assert pipeline.serve.num_microbatches >= len(pipeline.stages)
    assert pipeline.serve.swap_pages == pipeline.serve.batch == 0
    assert plan.step_seconds > 0
    assert "node-" in plan.explanation


def test_the_serve_planner_goes_around_a_link_that_is_down():
    stage = pool_of(500, 500, 500)
    for _ in range(2):
        stage.state.members.report_broken(node_id(1), node_id(2), stage.now_s)
    pool = stage.state.members.pool(stage.now_s)
    nodes = one_pipeline(SHAPE, pool, PLANNING).pipelines[0].nodes()
    ring = [frozenset(hop) for hop in zip(nodes, (*nodes[1:], nodes[0]), strict=True)]
    assert frozenset((node_id(1), node_id(2))) not in ring


# --- the shell --------------------------------------------------------------------------------------------------------

WANTED = Search(PIPELINE, Pool(()), PLANNING)


@pytest.mark.anyio
@pytest.mark.parametrize("error", [DoesNotFit("It does not fit; add a machine."), ZeroDivisionError("a bug")])
async def test_a_search_that_fails_has_found_nothing(error):
    def search(*_):
        raise error

    assert await Searching(search).run(SHAPE, WANTED) == PlanFound(PIPELINE, None)


@pytest.mark.anyio
async def test_a_search_ends_when_the_head_closes():
    begun = threading.Event()

    def search(shape, pool, options, out_of_time):
        begun.set()
        while not out_of_time():
            pass
        raise DoesNotFit("Nothing yet; wait.")

    searching = Searching(search)
    running = asyncio.create_task(searching.run(SHAPE, WANTED))
    await asyncio.to_thread(begun.wait)
    searching.close()
    assert await asyncio.wait_for(running, 2) == PlanFound(PIPELINE, None)


@pytest.mark.anyio
async def test_a_head_that_was_given_a_search_goes_over_to_what_it_finds(tmp_path):
    def search(shape, machines, options, out_of_time):
        fast = [node for node in machines.nodes if node.device.flops_per_s["bfloat16"] > 5e12]
        if len(fast) < 2:
            raise DoesNotFit("Not yet; wait.")
        stages = [Layers(fast[0].id, 0, 4), Layers(fast[1].id, 4, 8)]
        return as_plan(shape, machines, stages, 140, options, "found aside")

    def old_fashioned(shape, machines, keep, options):
        known = tuple(node for node in machines.nodes if node.id in (node_id(1), node_id(2)))
        return place(shape, replace(machines, nodes=known), keep, options)

    pool = Head(tmp_path, search, old_fashioned)
    await pool.start_head()
    await pool.ticket()
    for node in await pool.join(500, 500):
        node.streams = 0  # or the change would wait for them
    await pool.serving(1, 2)
    for number in (8, 9):
        await pool.fake(number, 500, 20.0).join()
    await pool.serving(8, 9)
    assert "found aside" in pool.service.status()["explanation"]
    for node in pool.nodes:
        await node.leave()
    await pool.stop_head()
