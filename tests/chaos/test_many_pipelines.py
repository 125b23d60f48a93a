"""Two hundred simulated machines and twenty pipelines through ten thousand events: the books hold after each."""

from dataclasses import replace
from random import Random

import pytest

from muster.broker.events import DrainNode, PipelineSuspected
from muster.broker.pipelines.job import JobModel, JobOptions
from muster.broker.pipelines.serve import serve_job
from tests.broker.actors import PLANNING, WORKSPACE, Stage, measured, shape

pytestmark = pytest.mark.chaos

MACHINES, PIPELINES, EVENTS = 200, 20, 10_000
SIZES = (150, 250, 400, 700)
"""MiB that a machine lends; the model takes some 500, so pipelines have one to four stages."""
MODEL = JobModel(replace(shape(6, 60), name="model"), manifest="ab" * 32, workspace=WORKSPACE)


class Told(Stage):
    """Counts events; every one is followed by a check, as `Stage.say` does it."""

    events = 0
    most_pipelines = 0

    def say(self, event):
        self.events += 1
        commands = super().say(event)
        self.most_pipelines = max(self.most_pipelines, len(self.state.pipelines.serving()))
        return commands


@pytest.mark.parametrize("seed", [1])
def test_the_books_of_twenty_pipelines_hold_through_ten_thousand_events(seed: int) -> None:
    random = Random(seed)
    options = JobOptions(planning=replace(PLANNING, exact_nodes=4), most_pipelines=PIPELINES, settle_s=0.5)
    stage = Told(jobs=[serve_job(MODEL, options=options)])
    for number in range(1, MACHINES + 1):
        stage.join(number, random.choice(SIZES), random.choice([0.5, 1, 2]))
    stage.pass_time(20, step_s=1.0)
    stage.events = 0
    while stage.events < EVENTS:
        disturb(stage, random)
        stage.pass_time(0.02, step_s=0.02)
    assert stage.most_pipelines == PIPELINES
    stage.pass_time(30, step_s=1.0)
    assert len(stage.state.pipelines.serving()) >= PIPELINES // 2


def disturb(stage: Told, random: Random) -> None:
    here = [actor for actor in stage.actors.values() if actor.alive]
    loads = [(actor, epoch) for actor in here for epoch in actor.stages if epoch not in actor.loaded]
    what = random.choice(["join", "join", "cut", "measure", "drain", "fail", "load", "hold", "suspect"])
    stage.auto = what != "hold"
    if what == "join":
        stage.join(random.randint(1, MACHINES), random.choice(SIZES), random.choice([0.5, 1, 2]))
    elif what == "cut" and len(here) > MACHINES // 2:
        stage.cut(random.choice(here))
    elif what == "measure":
        stage.tell(random.choice(here), measured(random.choice(SIZES), 1.0))
    elif what == "drain" and random.random() < 0.2:
        stage.say(DrainNode(random.choice(here).id))
    elif what == "fail" and loads:
        stage.fail_load(*random.choice(loads))
    elif what == "load" and loads:
        stage.finish_load(*random.choice(loads))
    elif what == "suspect":
        serving = stage.state.pipelines.serving()
        if serving:
            stage.say(PipelineSuspected(random.choice(serving).epoch, unreachable=random.random() < 0.5))
