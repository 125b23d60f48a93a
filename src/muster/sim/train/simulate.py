"""Training event by event: microbatches through pipelines, gradients between them, machines that leave. Deterministic.

Beside `train_forecast`: schedules as they are, wires that carry one message at a time, stages of different speed.

When a machine leaves, the step at hand is lost. `repair_s` later it starts again, with a standby in the same place; or
without that pipeline, and its microbatches spread over the others; or, where it was the only one, `repair_s` after the
machine is back.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf

from muster.cost.pace import TYPICAL, Constants
from muster.errors import InvalidRequest
from muster.sim.events import Events
from muster.sim.faults import FaultTimeline
from muster.sim.network import Network
from muster.sim.standbys import REPAIR_S, Standbys
from muster.sim.timeline import Span
from muster.sim.train.churn import Churn
from muster.sim.train.pipeline_costs import Exchange, PipelineCosts, costs_of, exchange_seconds
from muster.sim.train.pipeline_time import CHUNKS
from muster.sim.train.step import StepRun, TrainStep
from muster.spec.faults import Fault
from muster.spec.forecast import LinkForecast
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Pipeline, Plan
from muster.spec.pool import NodeId, Pool
from muster.spec.workload import TrainWorkload


@dataclass(frozen=True, slots=True)
class TrainStageRun:
    pipeline: int
    node: NodeId
    share: float
    """Of the last step, computing."""
    in_flight: int
    """Most microbatches (interleaved: chunks of them) whose activations it held at once."""


@dataclass(frozen=True, slots=True)
class TrainRun:
    step_s: float
    """The last step that was completed; infinite if none was."""
    tokens_per_s: float
    """Of all completed steps, over the whole time."""
    pipeline_s: float
    """Of that step, until its last microbatch was back."""
    exchange_s: float
    """Gradients and the optimizer, as far as they were not hidden."""
    steps: int
    """Completed."""
    lost_steps: int
    """Given up because a machine left."""
    duration_s: float
    stages: tuple[TrainStageRun, ...]
    links: tuple[LinkForecast, ...]
    """In the last step; those that carry activations."""
    spans: tuple[Span, ...]


def simulate_training(
    plan: Plan,
    pool: Pool,
    shape: ModelShape,
    workload: TrainWorkload,
    *,
    faults: Sequence[Fault[NodeId]] = (),
    constants: Constants = TYPICAL,
    seed: int = 0,
    steps: int = 1,
    timeline: bool = False,
    repair_s: float = REPAIR_S,
    exchange: Exchange = "best",
    chunks: int = CHUNKS,
    stage_seconds: Mapping[NodeId, float] | None = None,
) -> TrainRun:
    """`steps` optimizer steps, or as many as are possible. Nothing in it is random, so `seed` changes nothing yet.

    `stage_seconds` are measured seconds of one microbatch forth and back, by node. Raises as `train_forecast` does, and
    `InvalidRequest` on faults that cannot be.
    """
    if steps < 1:
        raise InvalidRequest(f"{steps} steps cannot be simulated; give at least 1.", "steps")

    def lay_out(pipelines: tuple[Pipeline, ...]) -> _Layout:
        current = replace(plan, pipelines=pipelines)
        found = costs_of(current, pool, shape, workload, constants, stage_seconds)
        groups = [[(costs.stages[j], costs.nodes[j]) for costs in found] for j in range(len(found[0].stages))]
        return _Layout(found, [exchange_seconds(current, pool, shape, group, exchange) for group in groups])

    fault_timeline = FaultTimeline(faults)
    churn = Churn(
        plan.pipelines, Standbys(plan, pool, shape, fault_timeline, repair_s), fault_timeline, repair_s, workload
    )
    layout, done, now_s = lay_out(plan.pipelines), list[_Done](), 0.0
    while len(done) < steps and now_s < inf:
        if churn.is_new(now_s):
            layout = lay_out(churn.pipelines)
        network = Network(Events(now_s), fault_timeline, shows=timeline)
        run = TrainStep(layout.pipelines, layout.exchanges, workload, chunks, network).run()
        lost_s = churn.first_loss(now_s, run.end_s)
        if lost_s is None:
            assert run.end_s < inf, "a schedule waits for itself"
            done.append(_Done(run, layout, network))
            now_s = run.end_s
        else:
            now_s = churn.restart(lost_s)
    return _result(done, churn.lost_steps, pool, workload)


@dataclass(frozen=True, slots=True)
class _Layout:
    """All pipelines as they are at work now."""

    pipelines: tuple[PipelineCosts, ...]
    exchanges: list[float]
    """Seconds, by stage."""


@dataclass(frozen=True, slots=True)
class _Done:
    """A step that was completed."""

    run: StepRun
    layout: _Layout
    network: Network

    def tokens(self, workload: TrainWorkload) -> int:
        return sum(costs.microbatches for costs in self.layout.pipelines) * workload.microbatch * workload.length


def _result(done: Sequence[_Done], lost_steps: int, pool: Pool, workload: TrainWorkload) -> TrainRun:
    if not done:
        return TrainRun(inf, 0.0, inf, 0.0, 0, lost_steps, inf, (), (), ())
    last, duration_s = done[-1], done[-1].run.end_s
    step_s = last.run.end_s - last.run.start_s
    return TrainRun(
        step_s=step_s,
        tokens_per_s=sum(step.tokens(workload) for step in done) / duration_s,
        pipeline_s=last.run.pipeline_end_s - last.run.start_s,
        exchange_s=last.run.end_s - last.run.pipeline_end_s,
        steps=len(done),
        lost_steps=lost_steps,
        duration_s=duration_s,
        stages=tuple(
            TrainStageRun(costs.index, stage.node, last.run.busy_s[i, j] / step_s, last.run.in_flight[i, j])
            for i, costs in enumerate(last.layout.pipelines)
            for j, stage in enumerate(costs.stages)
        ),
        links=tuple(
            LinkForecast(
                *pair, wire.sent_bytes / step_s, wire.sent_bytes / step_s / pool.link(*pair).bandwidth_bytes_per_s
            )
            for pair, wire in last.network.wires.items()
            if pair[0] != pair[1]
        ),
        spans=tuple(sorted((s for step in done for s in step.run.spans), key=lambda s: (s.start_s, s.lane))),
    )
