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

from muster.cost.island import holder, island_seconds
from muster.cost.memory import stage_bytes, workspace_of
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
    """What going to `plan`, of one pipeline, would cost and bring on this pool."""
    pipeline = plan.only_pipeline
    holders = _stages(situation.holders or situation.pipeline)
    devices = {node.id: node.device for node in pool.nodes}
    wanted = _stages(pipeline)
    moved = {node: missing_bytes(shape, stage, holders.get(node)) for node, stage in wanted.items()}
    load_s = {
        node: _load_seconds(node, shape, stage, holders.get(node), devices[node], moved[node], situation)
        for node, stage in wanted.items()
    }
    waiting = _make_way(pipeline, situation.pipeline, shape, pool, options)
    beside_s = max((took_s for node, took_s in load_s.items() if node not in waiting), default=0.0)
    after_s = max((load_s[node] for node in waiting), default=0.0)
    again_s = situation.cached_tokens * _prefill_seconds(pipeline, shape, pool, options)
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
    return sum(missing_bytes(shape, stage, holders.get(node)) for node, stage in _stages(new).items())


def missing_bytes(shape: ModelShape, stage: Stage, held: Stage | None) -> int:
    """Weights of `stage` that a machine which holds `held` does not have.

    Also of a stage that others share: tensors are fetched whole, since their digests are of whole tensors.
    """
    whole = shape.weight_bytes(stage.first, stage.last)
    if held is None:
        return whole
    first, last = max(stage.first, held.first), min(stage.last, held.last)
    return whole - shape.weight_bytes(first, last) if first < last else whole


def _stages(pipeline: Pipeline | None) -> dict[NodeId, Stage]:
    """By each machine that holds it, alone or with others."""
    return {node: stage for stage in pipeline.stages for node in stage.members} if pipeline is not None else {}


def _load_seconds(
    node: NodeId, shape: ModelShape, stage: Stage, held: Stage | None, device: Device, moved: int, situation: Situation
) -> float:
    """Until a machine has the weights of its stage in memory: what it lacks is fetched, then all of it is read."""
    if held is not None and (held.first, held.last, held.degree) == (stage.first, stage.last, stage.degree):
        return 0.0
    disk = device.disk_bandwidth_bytes_per_s
    reading_s = shape.weight_bytes(stage.first, stage.last) / stage.degree / disk if disk else 0.0
    return (moved / situation.fetch_bytes_per_s(node) if moved else 0.0) + reading_s


def _make_way(
    new: Pipeline, old: Pipeline | None, shape: ModelShape, pool: Pool, options: PlanOptions
) -> Collection[NodeId]:
    """Machines that have no room for both stages at once."""
    caps = {node.id: node.device.memory_bytes for node in pool.nodes}
    if old is None:
        return []
    held = {node: _bytes(shape, stage, old, options) for node, stage in _stages(old).items()}
    wanted = {node: _bytes(shape, stage, new, options) for node, stage in _stages(new).items()}
    return [node for node in wanted if node in held and held[node] + wanted[node] > caps[node]]


def _bytes(shape: ModelShape, stage: Stage, of: Pipeline, options: PlanOptions) -> int:
    workspace = workspace_of(of.work, options.workspace)
    return stage_bytes(shape, stage.first, stage.last, of.serve.cache_tokens, workspace, stage.degree)


def _prefill_seconds(pipeline: Pipeline, shape: ModelShape, pool: Pool, options: PlanOptions) -> float:
    """Per token of prompt, on the stage that takes longest, in steps that are full of them."""
    tokens = pipeline.serve.prefill_tokens or options.workspace.prefill_tokens
    nodes = {node.id: node for node in pool.nodes}
    each_s = [
        island_seconds(
            prefill(shape, stage.first, stage.last, tokens),
            shape,
            tokens,
            holder(pool, nodes, stage),
            stage.degree,
            options.constants,
        )
        for stage in pipeline.stages
    ]
    return max(each_s) / tokens
