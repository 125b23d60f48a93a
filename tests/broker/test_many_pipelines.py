"""Several jobs, and several pipelines of one job, on one pool: each goes its own way, and one memory is lent once."""

from collections.abc import Sequence
from dataclasses import replace
from random import Random

import pytest

from muster.broker.events import PipelineId, PipelineSuspected, Placed, PlanFound, Remembered
from muster.broker.pipelines.job import Job, JobModel, JobOptions
from muster.broker.pipelines.serve import serve_job
from muster.broker.view import nodes_view, status_view
from muster.plan.serve.one_pipeline import one_pipeline
from muster.spec.plan import ServeSettings, TrainSettings
from tests.broker.actors import PLANNING, SECRET, SERVED, WORKSPACE, Stage, measured, node_id, shape
from tests.broker.one_layer_each import OneLayerEach

SMALL = JobModel(replace(shape(4, 40), name="small"), manifest="cd" * 32, workspace=WORKSPACE)
TUNED = JobModel(replace(shape(3, 50), name="tuned"), manifest="ef" * 32, eos_token_ids=(7,), workspace=WORKSPACE)
OPTIONS = JobOptions(planning=PLANNING)


def serves(model: JobModel, pipelines: int = 1) -> Job:
    return replace(serve_job(model, options=OPTIONS), pipelines=pipelines)


TRAINED = replace(TUNED, shape=replace(shape(3, 2), name="tuned", embedding_bytes=2**21, head_bytes=2**21))
"""Gradients and optimizer take seven times the weights beside them."""
TRAINING = Job("run-7", TRAINED, OneLayerEach(), options=OPTIONS)


def pool_with(jobs: Sequence[Job], *sizes: float, remembered: Remembered | None = None) -> Stage:
    stage = Stage(remembered, jobs=jobs)
    for number, size in enumerate(sizes, start=1):
        stage.join(number, size)
    stage.pass_time(3)
    return stage


def machines(stage: Stage, job: str, number: int = 0) -> set[int]:
    route = stage.route_of.get(PipelineId(job, number))
    return {int(node, 16) for node in route.pipeline.nodes()} if route is not None else set()


def test_two_models_are_served_by_one_pool() -> None:
    stage = pool_with([serves(SERVED), serves(SMALL)], 600, 600, 600)
    assert machines(stage, "model")
    assert machines(stage, "small")
    epochs = [route.epoch for route in stage.route_of.values() if route is not None]
    assert len(set(epochs)) == 2
    view = status_view(stage.state)
    assert view["ready"]
    assert [job["model"] for job in view["jobs"]] == ["model", "small"]
    assert [job["ready"] for job in view["jobs"]] == [True, True]


def test_a_machine_may_work_for_several_jobs_and_lends_its_memory_once() -> None:
    stage = pool_with([serves(SERVED), serves(SMALL)], 1400)
    assert machines(stage, "model") == machines(stage, "small") == {1}
    (view,) = nodes_view(stage.state, [], stage.now_s, 0.0)
    assert [held["pipeline"] for held in view["stages"]] == ["model/0", "small/0"]
    alone = pool_with([serves(SERVED), serves(SMALL)], 1000)
    assert machines(alone, "model") == {1}
    assert machines(alone, "small") == set(), "what is left does not hold it"
    reasons = [job["reason"] for job in status_view(alone.state)["jobs"]]
    assert reasons[0] == ""
    assert "at least" in reasons[1]
    alone.join(2, 300)
    alone.pass_time(3)
    assert machines(alone, "small") == {2}


def test_the_pipelines_of_one_job_share_no_machine_and_a_loss_ends_only_its_own() -> None:
    stage = pool_with([serves(SMALL, pipelines=2)], 300, 300, 300)
    first, second = machines(stage, "small", 0), machines(stage, "small", 1)
    assert len(first) == len(second) == 1
    assert not first & second
    before = stage.route_of[PipelineId("small", 1)]
    stage.cut(stage.at(*first))
    stage.pass_time(3)
    assert stage.route_of[PipelineId("small", 1)] == before
    assert machines(stage, "small", 0) == {1, 2, 3} - first - second


def test_a_suspicion_is_about_the_pipeline_of_its_epoch() -> None:
    stage = pool_with([serves(SERVED), serves(SMALL)], 1400)
    kept, suspected = stage.route_of[PipelineId("small")], stage.route_of[PipelineId("model")]
    assert suspected is not None
    stage.say(PipelineSuspected(suspected.epoch, unreachable=True))
    assert stage.route_of[PipelineId("small")] == kept
    after = stage.route_of[PipelineId("model")]
    assert after is not None
    assert after.epoch > suspected.epoch


def test_what_one_pipeline_lets_go_of_another_may_take() -> None:
    stage = pool_with([serves(SERVED), serves(SMALL)], 1000)
    assert machines(stage, "small") == set()
    stage.join(2, 1300)
    stage.pass_time(3)
    assert machines(stage, "small")
    stage.cut(stage.at(2))
    stage.pass_time(3)
    assert machines(stage, "model") == {1}


def test_another_kind_of_work_is_assigned_lost_and_repaired_beside_one_that_serves() -> None:
    stage = pool_with([serves(SERVED), TRAINING], 600, 600, 600, 600)
    assert machines(stage, "model")
    trained = machines(stage, "run-7")
    assert len(trained) == 3
    assigned = [assign for number in trained for assign in stage.at(number).stages.values() if assign.job == "run-7"]
    assert {type(assign.pipeline.work) for assign in assigned} == {TrainSettings}
    assert {assign.mine.num_layers for assign in assigned} == {1}
    stage.cut(stage.at(max(trained)))
    stage.pass_time(5)
    assert len(machines(stage, "run-7")) == 3
    assert max(trained) not in machines(stage, "run-7")
    assert status_view(stage.state)["ready"]
    assert status_view(stage.state)["max_context"] > 0


def test_a_stage_that_serves_is_told_which_tokens_end_a_sequence() -> None:
    stage = pool_with([serves(TUNED)], 600)
    (assign,) = stage.at(1).stages.values()
    assert isinstance(assign.pipeline.work, ServeSettings)
    assert assign.pipeline.work.eos_token_ids == (7,)
    assert assign.pipeline.work.prefill_tokens == WORKSPACE.prefill_tokens


def test_a_search_is_for_one_pipeline() -> None:
    jobs = [replace(serves(model), search=one_pipeline) for model in (SERVED, SMALL)]
    stage = pool_with(jobs, 1400, 400)
    stage.pass_time(60)
    assert {wanted.pipeline for wanted in stage.searches} == {PipelineId("model"), PipelineId("small")}
    for wanted in stage.searches:
        stage.say(PlanFound(wanted.pipeline, None))


def test_a_restarted_head_finds_every_pipeline_again() -> None:
    jobs = [serves(SERVED), serves(SMALL, pipelines=2)]
    first = pool_with(jobs, 1000, 300, 300)
    placed = {record.id: record for record in first.saved if isinstance(record, Placed)}
    assert len(placed) == 3
    again = pool_with(
        jobs,
        1000,
        300,
        300,
        remembered=Remembered(
            max(record.epoch for record in placed.values()),
            {id: record.pipeline for id, record in placed.items()},
            secrets=[(SECRET, 1e12)],
        ),
    )
    for id, record in placed.items():
        route = again.route_of[id]
        assert route is not None
        assert route.pipeline.stages == record.pipeline.stages
        assert route.epoch > max(record.epoch for record in placed.values())


@pytest.mark.parametrize("seed", range(2))
def test_whatever_happens_the_books_hold_over_all_pipelines(seed: int) -> None:
    """`Stage.say` checks them after every event."""
    random = Random(seed)
    stage = pool_with([serves(SERVED), serves(SMALL, pipelines=2), TRAINING], 900, 900)
    stage.auto = False
    for _ in range(60):
        here = [actor for actor in stage.actors.values() if actor.alive]
        what = random.choice(["join", "join", "cut", "measure", "load", "load", "load", "fail", "time"])
        loads = [(actor, epoch) for actor in here for epoch in actor.stages if epoch not in actor.loaded]
        if what == "join":
            stage.join(random.randint(1, 8), random.choice([200, 500, 900, 1600]), random.choice([0.5, 1, 4]))
        elif what == "cut" and here:
            stage.cut(random.choice(here))
        elif what == "measure" and here:
            stage.tell(random.choice(here), measured(random.choice([150, 400, 900, 1600]), 1.0))
        elif what == "load" and loads:
            stage.finish_load(*random.choice(loads))
        elif what == "fail" and loads:
            stage.fail_load(*random.choice(loads))
        if what == "time":
            stage.pass_time(random.choice([2.0, 40.0]), step_s=2.0)
    stage.auto = True
    for number in range(1, 9):
        stage.join(number, 2000)
    stage.pass_time(700, step_s=10.0)
    assert {id: route is not None for id, route in stage.route_of.items()} == {
        PipelineId("model"): True,
        PipelineId("small", 0): True,
        PipelineId("small", 1): True,
        PipelineId("run-7"): True,
    }
    assert node_id(1) in stage.state.members.members
