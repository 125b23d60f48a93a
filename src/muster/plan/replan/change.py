"""What it costs to go from one pipeline to another, and whether that is worth it. Knows no search and no clock.

    now ──── load_seconds ────┬── disturbance_s ──┬──────────── until the horizon
             the old one      │   nobody's        │   the new one
             still serves     │   tokens          │   serves

A new pipeline loads beside the old one where memory allows. Where it does not, the old one makes way before the last
weights are read; and every running request computes its cache again. That is what a gain has to pay for.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from math import inf

from muster.cost.memory import stage_bytes, workspace_of
from muster.cost.pace import seconds
from muster.cost.work import prefill
from muster.errors import InvalidRequest, PoolUnavailable
from muster.plan.quick.tables import PlanOptions
from muster.sim.serve.forecast import serve_forecast
from muster.sim.serve.ring import BatchRules
from muster.spec.capacity import Capacity
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Pipeline, Plan, Stage
from muster.spec.pool import Device, NodeId, Pool
from muster.spec.workload import ServeWorkload

SWITCH_S = 0.5
"""Until requests have gone over to another pipeline that is ready."""


@dataclass(frozen=True, slots=True)
class Situation:
    """What serves now, and what it would be disturbed in."""

    pipeline: Pipeline | None
    """None: nothing serves, and there is nothing to disturb."""
    tokens_per_s: float = 0.0
    """That it can generate."""
    holders: Pipeline | None = None
    """Whose weights are still on their machines, if that is not `pipeline`."""
    cached_tokens: int = 0
    """Of running requests; whoever takes over computes them again."""
    fetch_bytes_per_s: Callable[[NodeId], float] = lambda node: inf
    """How fast a machine gets weights that it does not have."""


@dataclass(frozen=True, slots=True)
class Change:
    plan: Plan
    moved_bytes: int
    """Weights that go to machines which did not hold them."""
    load_seconds: float
    """Until the last machine has its weights."""
    disturbance_s: float
    """Of those and what follows, without tokens for anybody."""
    before: float
    """Tokens/s without the change; 0 where nothing serves."""
    gain: float
    """Tokens/s more than without it."""

    def net_tokens(self, horizon_s: float) -> float:
        """Tokens gained until the horizon, less those that the disturbance costs."""
        return self.gain * max(0.0, horizon_s - self.load_seconds - self.disturbance_s) - self.lost_tokens

    @property
    def lost_tokens(self) -> float:
        return self.before * self.disturbance_s


def worth(change: Change, horizon_s: float, margin: float = 0.5, least_gain: float = 0.2) -> bool:
    """Whether the gain until the horizon pays for the disturbance, and `margin` of it on top.

    A gain of less than `least_gain`, as a share, may be nothing but the error of a forecast or a measurement.
    """
    if change.gain <= least_gain * change.before:
        return False
    return change.net_tokens(horizon_s) > margin * change.lost_tokens


def change_to(plan: Plan, situation: Situation, shape: ModelShape, pool: Pool, options: PlanOptions) -> Change:
    """What going to `plan`, of one pipeline on single devices, would cost and bring on this pool."""
    pipeline = plan.only_pipeline
    holders = _stages(situation.holders or situation.pipeline)
    devices = {node.id: node.device for node in pool.nodes}
    moved = {s.node: missing_bytes(shape, s, holders.get(s.node)) for s in pipeline.stages}
    load_s = {
        s.node: _load_seconds(shape, s, holders.get(s.node), devices[s.node], moved[s.node], situation)
        for s in pipeline.stages
    }
    waiting = _make_way(pipeline, situation.pipeline, shape, pool, options)
    beside_s = max((took_s for node, took_s in load_s.items() if node not in waiting), default=0.0)
    after_s = max((load_s[node] for node in waiting), default=0.0)
    again_s = situation.cached_tokens * _prefill_seconds(pipeline, shape, devices, options)
    return Change(
        plan=plan,
        moved_bytes=sum(moved.values()),
        load_seconds=beside_s,
        disturbance_s=after_s + again_s + SWITCH_S,
        before=situation.tokens_per_s,
        gain=tokens_per_s(pipeline, shape, pool, options) - situation.tokens_per_s,
    )


def tokens_per_s(pipeline: Pipeline, shape: ModelShape, pool: Pool, options: PlanOptions) -> float:
    """Tokens that the pipeline could generate per second, by the closed forecast; 0 if it is broken."""
    plan = Plan(shape.name, (pipeline,))
    rules = BatchRules(prefill_tokens=options.workspace.prefill_tokens)
    try:
        forecast = serve_forecast(plan, pool, shape, usual(shape, options), options.constants, rules=rules)
    except (PoolUnavailable, InvalidRequest):  # a link is down, a machine is gone
        return 0.0
    return forecast.capacity_tokens_per_s


def capacity_of(pipeline: Pipeline, shape: ModelShape, pool: Pool, options: PlanOptions) -> Capacity:
    """What is forecast of it, for whoever sends it requests."""
    rules = BatchRules(prefill_tokens=options.workspace.prefill_tokens)
    alone = replace(usual(shape, options), concurrency=1)
    work = pipeline.serve
    try:
        plan = Plan(shape.name, (pipeline,))
        token_s = serve_forecast(plan, pool, shape, alone, options.constants, rules=rules).seconds_per_token
    except (PoolUnavailable, InvalidRequest):
        token_s = 0.0
    return Capacity(tokens_per_s(pipeline, shape, pool, options), token_s, work.all_pages, work.page_size)


def usual(shape: ModelShape, options: PlanOptions) -> ServeWorkload:
    """Requests as plans are weighed by: a quarter of the context that `options` names is generated."""
    prompt_tokens = max(1, min(options.context, shape.max_context) * 3 // 4)
    return ServeWorkload(prompt_tokens, output_tokens=max(1, prompt_tokens // 3))


def moved_bytes(shape: ModelShape, old: Pipeline | None, new: Pipeline) -> int:
    """Weights that go to machines which do not hold them yet."""
    holders = _stages(old)
    return sum(missing_bytes(shape, stage, holders.get(stage.node)) for stage in new.stages)


def missing_bytes(shape: ModelShape, stage: Stage, held: Stage | None) -> int:
    """Weights of `stage` that a machine which holds `held` does not have."""
    whole = shape.weight_bytes(stage.first, stage.last)
    if held is None:
        return whole
    first, last = max(stage.first, held.first), min(stage.last, held.last)
    return whole - shape.weight_bytes(first, last) if first < last else whole


def _stages(pipeline: Pipeline | None) -> dict[NodeId, Stage]:
    return {stage.node: stage for stage in pipeline.stages} if pipeline is not None else {}


def _load_seconds(
    shape: ModelShape, stage: Stage, held: Stage | None, device: Device, moved: int, situation: Situation
) -> float:
    """Until a machine has the weights of its stage in memory: what it lacks is fetched, then all of it is read."""
    if held is not None and (held.first, held.last) == (stage.first, stage.last):
        return 0.0
    disk = device.disk_bandwidth_bytes_per_s
    reading_s = shape.weight_bytes(stage.first, stage.last) / disk if disk else 0.0
    return (moved / situation.fetch_bytes_per_s(stage.node) if moved else 0.0) + reading_s


def _make_way(
    new: Pipeline, old: Pipeline | None, shape: ModelShape, pool: Pool, options: PlanOptions
) -> Collection[NodeId]:
    """Machines that have no room for both stages at once."""
    caps = {node.id: node.device.memory_bytes for node in pool.nodes}
    if old is None:
        return []
    held = {stage.node: _bytes(shape, stage, old, options) for stage in old.stages}
    wanted = {stage.node: _bytes(shape, stage, new, options) for stage in new.stages}
    return [node for node in wanted if node in held and held[node] + wanted[node] > caps[node]]


def _bytes(shape: ModelShape, stage: Stage, of: Pipeline, options: PlanOptions) -> int:
    workspace = workspace_of(of.work, options.workspace)
    return stage_bytes(shape, stage.first, stage.last, of.serve.cache_tokens, workspace)


def _prefill_seconds(
    pipeline: Pipeline, shape: ModelShape, devices: dict[NodeId, Device], options: PlanOptions
) -> float:
    """Per token of prompt, on the stage that takes longest, in steps that are full of them."""
    tokens = pipeline.serve.prefill_tokens or options.workspace.prefill_tokens
    work = {stage.node: prefill(shape, stage.first, stage.last, tokens) for stage in pipeline.stages}
    return max(seconds(work[node], devices[node], shape.dtype, options.constants) for node in work) / tokens
