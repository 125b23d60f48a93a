"""One training plan on its machines: what a microbatch costs on each stage and hop, and what gradients cost.

    stage 0 -> stage 1 -> ... -> last      activations
    stage 0 <- stage 1 <- ... <- last      their gradients, as large

The j-th stages of all pipelines hold the same layers and exchange gradients once a step.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from muster.cost.codecs import message_bytes
from muster.cost.island import island_seconds
from muster.cost.memory import dtype_bytes
from muster.cost.pace import Constants, seconds
from muster.cost.training_memory import state_bytes
from muster.cost.work import optimizer_step, train_backward, train_forward
from muster.errors import InvalidRequest
from muster.sim.serve.ring import link_between
from muster.spec.codec import RAW
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Plan, Stage
from muster.spec.pool import LinkSpeed, Node, NodeId, Pool
from muster.spec.workload import TrainWorkload

Exchange = Literal["best", "sharded", "ring"]
"""Gradients through a sharded parameter server (DT-FM), around a ring, or whichever of both is faster."""


@dataclass(frozen=True, slots=True)
class TrainHop:
    """Between neighbouring stages, for one microbatch. Latencies count what a message costs at both ends as well."""

    source: Node
    target: Node
    forth: LinkSpeed
    back: LinkSpeed
    forth_bytes: int
    back_bytes: int

    @property
    def forth_wire_s(self) -> float:
        return self.forth_bytes / self.forth.bandwidth_bytes_per_s

    @property
    def back_wire_s(self) -> float:
        return self.back_bytes / self.back.bandwidth_bytes_per_s


class PipelineCosts:
    """`plan.pipelines[index]` at work on microbatches."""

    def __init__(
        self,
        plan: Plan,
        index: int,
        pool: Pool,
        shape: ModelShape,
        workload: TrainWorkload,
        constants: Constants,
        stage_seconds: Mapping[NodeId, float] | None = None,
    ) -> None:
        nodes = {node.id: node for node in pool.nodes}
        self.index, self.pipeline = index, plan.pipelines[index]
        self.stages = self.pipeline.stages
        missing = [stage.node for stage in self.stages if stage.node not in nodes]
        if missing:
            raise InvalidRequest(f"The plan uses {missing[0][:16]}, which the pool has not; plan again on this pool.")
        if self.pipeline.train.num_microbatches < 1:
            raise InvalidRequest(f"Pipeline {index} computes no microbatch; plan at least one.", "plan")
        self.nodes = tuple(nodes[stage.node] for stage in self.stages)
        self.microbatches = self.pipeline.train.num_microbatches
        self.hops = tuple(_hop(plan, pool, shape, workload, constants, *pair) for pair in pairwise(self.nodes))
        wraps = workload.schedule == "interleaved" and len(self.nodes) > 1
        ends = (self.nodes[-1], self.nodes[0])
        self.wrap = _hop(plan, pool, shape, workload, constants, *ends) if wraps else None
        """From the last stage's chunk to the first stage's next one; None where nobody goes that way."""
        both = [
            _stage_seconds(shape, stage, node, workload, constants, stage_seconds or {})
            for stage, node in zip(self.stages, self.nodes, strict=True)
        ]
        self.forward_s = tuple(pair[0] for pair in both)
        self.backward_s = tuple(pair[1] for pair in both)
        self.optimizer_s = tuple(
            _optimizer_seconds(shape, stage, node, workload, constants)
            for stage, node in zip(self.stages, self.nodes, strict=True)
        )


def costs_of(
    plan: Plan,
    pool: Pool,
    shape: ModelShape,
    workload: TrainWorkload,
    constants: Constants,
    stage_seconds: Mapping[NodeId, float] | None = None,
) -> tuple[PipelineCosts, ...]:
    """All pipelines. Raises `InvalidRequest` unless they are cut alike."""
    found = tuple(
        PipelineCosts(plan, i, pool, shape, workload, constants, stage_seconds) for i in range(len(plan.pipelines))
    )
    if not found:
        raise InvalidRequest("The plan has no pipeline; plan again.", "plan")
    cuts = {tuple((stage.first, stage.last) for stage in costs.stages) for costs in found}
    if len(cuts) > 1:
        raise InvalidRequest("Pipelines that train together must be cut at the same layers; plan again.", "plan")
    return found


def _hop(
    plan: Plan,
    pool: Pool,
    shape: ModelShape,
    workload: TrainWorkload,
    constants: Constants,
    source: Node,
    target: Node,
) -> TrainHop:
    tokens = workload.microbatch * workload.length

    def link(one: Node, other: Node) -> LinkSpeed:
        known = link_between(pool, one, other)
        return replace(known, latency_s=known.latency_s + constants.message_s)

    return TrainHop(
        source,
        target,
        link(source, target),
        link(target, source),
        message_bytes(shape, tokens, plan.codec(source.id, target.id) or RAW),
        message_bytes(shape, tokens, plan.codec(target.id, source.id) or RAW),
    )


def _stage_seconds(
    shape: ModelShape,
    stage: Stage,
    node: Node,
    workload: TrainWorkload,
    constants: Constants,
    measured: Mapping[NodeId, float],
) -> tuple[float, float]:
    """(forward, backward) of one microbatch. A measured sum is shared as the operations are."""
    sizes = (shape, stage.first, stage.last, workload.microbatch, workload.length)
    forth, back = train_forward(*sizes), train_backward(*sizes, workload.recompute)
    tokens, devices = workload.microbatch * workload.length, len(stage.devices)
    if node.id in measured:
        share = forth.flops / (forth.flops + back.flops)
        return measured[node.id] * share, measured[node.id] * (1 - share)
    return (
        island_seconds(forth, shape, tokens, node, devices, constants),
        island_seconds(back, shape, tokens, node, devices, constants),
    )


def _optimizer_seconds(
    shape: ModelShape, stage: Stage, node: Node, workload: TrainWorkload, constants: Constants
) -> float:
    work = optimizer_step(shape, stage.first, stage.last, state_bytes(workload.optimizer, shape.dtype))
    return seconds(work.times(1 / len(stage.devices)), node.device, shape.dtype, constants)


def exchange_seconds(
    plan: Plan, pool: Pool, shape: ModelShape, group: Sequence[tuple[Stage, Node]], way: Exchange = "best"
) -> float:
    """Until the gradients of one stage, which all of `group` hold, are summed and everybody has the new weights.

    sharded: every machine serves one D-th of the parameters; the slowest waits for
    max over d of the sum over d' of 2 (latency + bytes / (D bandwidth)) (DT-FM, arXiv 2206.01288, eq. 2)
    ring: 2 (D - 1) rounds, each as long as its slowest neighbours need for one D-th (Baidu's all-reduce, 2017)
    """
    count = len(group)
    if count == 1:
        return 0.0
    part = shape.weight_bytes(group[0][0].first, group[0][0].last) / count
    nodes = [node for _, node in group]

    def message_s(source: Node, target: Node) -> float:
        link = link_between(pool, source, target)
        return link.latency_s + part * _thinner(plan, shape, source, target) / link.bandwidth_bytes_per_s

    if way == "ring":
        return _around(nodes, message_s)
    sharded_s = max(
        sum(message_s(here, there) + message_s(there, here) for there in nodes if there is not here) for here in nodes
    )
    return sharded_s if way == "sharded" else min(sharded_s, _around(nodes, message_s))


def _around(nodes: Sequence[Node], message_s: Callable[[Node, Node], float]) -> float:
    neighbours = zip(nodes, [*nodes[1:], nodes[0]], strict=True)
    return 2 * (len(nodes) - 1) * max(message_s(source, target) for source, target in neighbours)


def _thinner(plan: Plan, shape: ModelShape, source: Node, target: Node) -> float:
    """Bytes that the link's codec makes of one."""
    codec = plan.codec(source.id, target.id)
    return codec.bits_per_value / (8 * dtype_bytes(shape.dtype)) if codec and codec.bits_per_value else 1.0
