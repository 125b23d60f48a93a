"""Where a training run's pipelines go: alike, apart, beside what serves, and again where a machine is lost."""

from dataclasses import replace

from muster.broker.events import PipelineId
from muster.broker.pipelines.job import Job, JobOptions
from muster.broker.pipelines.train import train_job
from muster.broker.view import status_view
from muster.spec.plan import Pipeline, TrainSettings
from tests.broker.actors import PLANNING, SERVED, Stage
from tests.broker.test_many_pipelines import TRAINED, machines, pool_with, serves

SETTINGS = TrainSettings(num_microbatches=8, microbatch=1, length=128)
OPTIONS = JobOptions(planning=PLANNING, min_nodes=4, most_pipelines=8)


def trains(stages: int = 2, **changes: object) -> Job:
    return train_job("run", TRAINED, SETTINGS, replace(OPTIONS, **changes), stages)  # type: ignore[arg-type]


def pipelines(stage: Stage) -> list[Pipeline]:
    return [route.pipeline for id, route in sorted(stage.route_of.items(), key=str) if route and id.job == "run"]


def cuts(pipeline: Pipeline) -> list[int]:
    return [part.last for part in pipeline.stages]


def test_as_many_pipelines_as_machines_suffice_for_are_cut_alike_and_share_none() -> None:
    stage = pool_with([trains()], 600, 500, 400, 300, 200)
    placed = pipelines(stage)
    assert len(placed) == 2
    assert cuts(placed[0]) == cuts(placed[1])
    assert len({node for pipeline in placed for node in pipeline.nodes()}) == 4
    assert all(pipeline.train == SETTINGS for pipeline in placed)


def test_no_more_pipelines_are_made_than_are_wanted() -> None:
    assert len(pipelines(pool_with([trains(most_pipelines=1)], 600, 600, 600, 600))) == 1


def test_it_waits_for_as_many_machines_as_are_wanted() -> None:
    stage = pool_with([trains(fewer="train with a lower --pool")], 600, 600, 600)
    assert pipelines(stage) == []
    assert status_view(stage.state)["reason"] == (
        "3 of 4 machines are here and have shown their speed; join more, or train with a lower --pool."
    )


def test_a_lost_stage_is_placed_anew_at_the_same_layers_and_the_other_pipeline_goes_on() -> None:
    stage = pool_with([trains()], 600, 600, 600, 600, 600)
    first, second = pipelines(stage)
    kept = stage.route_of[PipelineId("run", 0)]
    lost = machines(stage, "run", 1) - machines(stage, "run", 0)
    stage.cut(stage.at(min(lost)))
    stage.pass_time(3)
    assert stage.route_of[PipelineId("run", 0)] == kept
    (anew,) = [pipeline for pipeline in pipelines(stage) if pipeline != first]
    assert cuts(anew) == cuts(second)
    assert min(lost) not in {int(node, 16) for node in anew.nodes()}


def test_too_little_memory_is_said_in_a_sentence() -> None:
    stage = pool_with([trains()], 10, 10, 10, 10)
    assert pipelines(stage) == []
    assert "Training tuned needs" in status_view(stage.state)["reason"]


def test_a_run_trains_beside_a_model_that_is_served() -> None:
    stage = pool_with([serves(SERVED), trains()], 800, 800, 800, 800)
    assert machines(stage, "model")
    assert pipelines(stage)
    stage.state.check(stage.now_s)
