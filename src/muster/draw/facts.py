"""What a plan, its pool and its forecast say about each machine and each link. Knows nothing of drawing."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from muster.errors import InvalidRequest
from muster.spec.forecast import LinkForecast, ServeForecast, StageForecast, TrainForecast
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Pipeline, Plan, Stage
from muster.spec.pool import LinkSpeed, Node, NodeId, Pool

Forecast = ServeForecast | TrainForecast | None


@dataclass(frozen=True, slots=True)
class StageLoad:
    """One stage as its machine sees it. Bytes are of each of its devices."""

    pipeline: int
    index: int
    """Which stage of the pipeline, from 0."""
    stage: Stage
    weights_bytes: int
    cache_bytes: int
    other_bytes: int
    cap_bytes: int
    busy: float | None
    """Share of the time; None without a forecast."""

    @property
    def fill(self) -> float:
        used = self.weights_bytes + self.cache_bytes + self.other_bytes
        return used / self.cap_bytes if self.cap_bytes else 0.0


@dataclass(frozen=True, slots=True)
class Machine:
    node: Node
    work: tuple[StageLoad, ...]
    role: Literal["works", "standby", "left out"]


@dataclass(frozen=True, slots=True)
class UsedLink:
    """One direction of a link that the plan uses."""

    source: NodeId
    target: NodeId
    speed: LinkSpeed
    share: float | None
    """Of its bandwidth; None without a forecast."""
    codec: str
    """Empty for raw values."""
    is_hop: bool
    """From a stage to the next one; the others exchange gradients."""


def machines(plan: Plan, pool: Pool, shape: ModelShape, forecast: Forecast) -> tuple[Machine, ...]:
    """Those that hold layers first, in the order in which a token meets them; then the others in the pool's order."""
    nodes = {node.id: node for node in pool.nodes}
    work: dict[NodeId, list[StageLoad]] = defaultdict(list)
    for number, pipeline in enumerate(plan.pipelines):
        for index, stage in enumerate(pipeline.stages):
            if stage.node not in nodes:
                raise InvalidRequest(
                    f"The plan gives layers to {stage.node[:12]}, which is not in the pool; draw it with its own pool.",
                    "pool",
                )
            work[stage.node].append(_work(number, index, stage, nodes[stage.node], shape, forecast))
    at_work = [Machine(nodes[node], tuple(done), "works") for node, done in work.items()]
    return (*at_work, *(_idle(node, plan) for node in pool.nodes if node.id not in work))


def _idle(node: Node, plan: Plan) -> Machine:
    return Machine(node, (), "standby" if node.id in plan.standbys else "left out")


def _work(number: int, index: int, stage: Stage, node: Node, shape: ModelShape, forecast: Forecast) -> StageLoad:
    found = _of_stage(number, stage, forecast)
    if found is None:
        weights = shape.weight_bytes(stage.first, stage.last) // max(1, len(stage.devices))
        return StageLoad(number, index, stage, weights, 0, 0, node.device.memory_bytes, None)
    sizes = found.weights_bytes, found.cache_bytes, found.other_bytes, found.cap_bytes
    return StageLoad(number, index, stage, *sizes, found.share)


def _of_stage(number: int, stage: Stage, forecast: Forecast) -> StageForecast | None:
    wanted = (number, stage.node, stage.first)
    told = forecast.stages if forecast else ()
    return next((said for said in told if (said.pipeline, said.node, said.first) == wanted), None)


def used_links(plan: Plan, pool: Pool, forecast: Forecast) -> tuple[UsedLink, ...]:
    """Each direction once: from stage to stage, and in training between the machines that exchange gradients.

    Those are what the forecast names besides the hops; where it names none, all pairs of the same stage.
    """
    hops = set(_hops(plan))
    told: dict[tuple[NodeId, NodeId], LinkForecast] = {
        (link.source, link.target): link for link in (forecast.links if forecast else ())
    }
    exchanges = [] if set(told) - hops else list(_exchanges(plan))
    pairs = dict.fromkeys([*_hops(plan), *told, *exchanges])
    return tuple(_used(plan, pool, *pair, told.get(pair), pair in hops) for pair in pairs)


def _used(plan: Plan, pool: Pool, source: NodeId, target: NodeId, told: LinkForecast | None, is_hop: bool) -> UsedLink:
    codec = plan.codec(source, target)
    packed = codec.name if codec and codec.bits_per_value else ""
    return UsedLink(source, target, pool.link(source, target), told.share if told else None, packed, is_hop)


def _hops(plan: Plan) -> Iterator[tuple[NodeId, NodeId]]:
    """A ring in serving; forth and back in training."""
    for pipeline in plan.pipelines:
        for source, target in _neighbours(pipeline):
            yield source, target
            if plan.trains:
                yield target, source
        if not plan.trains and pipeline.stages[0].node != pipeline.stages[-1].node:
            yield pipeline.stages[-1].node, pipeline.stages[0].node


def _exchanges(plan: Plan) -> Iterator[tuple[NodeId, NodeId]]:
    if plan.trains:
        for alike in zip(*(pipeline.nodes() for pipeline in plan.pipelines), strict=False):
            yield from ((source, target) for source in alike for target in alike if source != target)


def _neighbours(pipeline: Pipeline) -> Iterator[tuple[NodeId, NodeId]]:
    nodes = pipeline.nodes()
    return ((here, there) for here, there in pairwise(nodes) if here != there)
