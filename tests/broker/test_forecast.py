"""What a head expects of its pipeline is what `muster plan --pool live` and the simulator say of it."""

from dataclasses import replace

import pytest

from muster.broker.members.measured_pool import measured_pool, pool_file
from muster.broker.pipelines.serve import situation
from muster.cli.planning import Question, forecast_of
from muster.cost.measured import constants_for
from muster.cost.pace import TYPICAL
from muster.plan.replan.change import usual
from muster.sim.serve.simulate import simulate_serving
from muster.sim.serve.stage_time import StagePace, decode_load
from muster.spec.forecast import ServeForecast
from muster.spec.plan import Plan
from muster.spec.pool_file import parse_pool
from muster.wire.messages.membership import Measured, PeerMeasured
from tests.broker.actors import SERVED, Stage, measured

SHAPE = SERVED.shape


def serving_pool(kinds: tuple[str, ...]) -> Stage:
    """Machines of these kinds with measured links; the second one has turned out to be slower than it said."""
    stage = Stage()
    for number, kind in enumerate(kinds, start=1):
        claim = measured(450, speed=1 + number / 4)
        stage.tell(stage.dial(number), Measured(replace(claim.device, kind=kind), claim.free_memory_bytes))
    actors = list(stage.actors.values())
    for source in actors:
        for target in actors:
            if source is not target:
                link = PeerMeasured(peer=target.id, round_trip_s=0.02, bandwidth_bytes_per_s=5e7)
                stage.tell(source, link)
    stage.state.members.members[actors[1].id].slowness = 3.0
    stage.pass_time(90)
    return stage


@pytest.mark.parametrize(
    ("kinds", "constants"), [(("cpu", "cpu", "cpu"), constants_for("cpu")), (("cpu", "cuda", "cpu"), TYPICAL)]
)
def test_head_planner_and_simulator_forecast_the_same_of_a_live_pool(kinds, constants):
    stage = serving_pool(kinds)
    lifecycle = stage.lifecycle
    serving, options = lifecycle.serving, lifecycle.forecasting(stage.now_s)
    assert len(serving.pipeline.stages) > 1
    expected = situation(lifecycle.job, lifecycle.circumstances(stage.now_s), options).tokens_per_s

    pool = parse_pool(pool_file(measured_pool(stage.state.members, "live", stage.now_s), "just now"))
    question = Question(SHAPE, pool, "throughput", serve=usual(SHAPE, options))
    plan = Plan(SHAPE.name, (serving.pipeline,))
    forecast = forecast_of(question, plan)
    assert isinstance(forecast, ServeForecast)
    assert question.constants == options.constants == constants
    assert forecast.capacity_tokens_per_s == pytest.approx(expected, rel=1e-9)

    nodes = {node.id: node for node in pool.nodes}
    step = decode_load(options.batch, options.context)
    stages = [StagePace(SHAPE, one, nodes[one.node], constants).seconds(step) for one in serving.pipeline.stages]
    assert serving.step_seconds == pytest.approx(max(stages), rel=1e-6)

    run = simulate_serving(plan, pool, SHAPE, question.serve, constants=question.constants, num_requests=400)
    assert run.tokens_per_s == pytest.approx(expected, rel=0.1)
