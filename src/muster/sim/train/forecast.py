"""The forecast of a training step, put together: pipelines, exchange, memory, and what bounds it in words."""

from collections.abc import Mapping, Sequence
from math import ceil

from muster.cost.pace import TYPICAL, Constants
from muster.cost.training_memory import TrainingMemory, TrainingOptions, training_memory
from muster.sim.train.pipeline_costs import Exchange, PipelineCosts, costs_of, exchange_seconds
from muster.sim.train.pipeline_time import CHUNKS, last_backward_s, pipeline_seconds
from muster.spec.codec import RAW
from muster.spec.forecast import LinkForecast, StageForecast, TrainForecast
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Plan
from muster.spec.pool import NodeId, Pool
from muster.spec.workload import TrainWorkload

UNDIVIDED = 10 / 34
"""Of the activations, what tensor parallelism leaves whole on each device (Korthikanti et al., 2022, eqs. 1 and 2)."""


def train_forecast(
    plan: Plan,
    pool: Pool,
    shape: ModelShape,
    workload: TrainWorkload,
    constants: Constants = TYPICAL,
    *,
    exchange: Exchange = "best",
    chunks: int = CHUNKS,
    stage_seconds: Mapping[NodeId, float] | None = None,
) -> TrainForecast:
    """One optimizer step; see `pipeline_time.py` for the formulas. Links are those that carry activations.

    `chunks` are the pieces of each machine's layers under the interleaved schedule. Raises `InvalidRequest` on a plan
    that cannot train, `PoolUnavailable` on a dead link.
    """
    pipelines = costs_of(plan, pool, shape, workload, constants, stage_seconds)
    pipelines_s = [pipeline_seconds(costs, workload, chunks) for costs in pipelines]
    pipeline_s = max(pipelines_s)
    pieces = chunks if workload.schedule == "interleaved" else 1
    ends = [last_backward_s(costs, whole_s, pieces) for costs, whole_s in zip(pipelines, pipelines_s, strict=True)]
    exchanges = [
        exchange_seconds(plan, pool, shape, [(costs.stages[j], costs.nodes[j]) for costs in pipelines], exchange)
        for j in range(len(plan.first_replica.stages))
    ]
    finish = [
        max(end[j] for end in ends) + exchanges[j] + max(costs.optimizer_s[j] for costs in pipelines)
        for j in range(len(exchanges))
    ]
    step_s = max(finish)
    tokens = sum(costs.microbatches for costs in pipelines) * workload.microbatch * workload.length
    return TrainForecast(
        step_s=step_s,
        tokens_per_s=tokens / step_s,
        pipeline_s=pipeline_s,
        exchange_s=max(0.0, step_s - pipeline_s),
        stages=tuple(stage for costs in pipelines for stage in _stages(costs, plan, shape, workload, step_s, chunks)),
        links=_links(pipelines, step_s, pieces),
        bottleneck=_bottleneck(pipelines, pipelines_s, step_s, finish.index(step_s), exchanges),
    )


def in_flight(costs: PipelineCosts, stage: int, schedule: str, chunks: int) -> int:
    """Microbatches of which a stage keeps activations at once: all of them with GPipe, else what its window holds.

    Interleaved: 2 (S - s) - 1 + (v - 1) S pieces of 1/v each (Narayanan et al., 2021, section 2.2).
    """
    count = len(costs.stages)
    if schedule == "gpipe":
        return costs.microbatches
    if schedule == "interleaved":
        return min(costs.microbatches, ceil((2 * (count - stage) - 1 + (chunks - 1) * count) / chunks))
    return min(costs.microbatches, count - stage)


def _memory(
    costs: PipelineCosts, index: int, plan: Plan, shape: ModelShape, workload: TrainWorkload, chunks: int
) -> TrainingMemory:
    stage = costs.stages[index]
    neighbours = [hop.source.id for hop in costs.hops[index - 1 : index]]
    codecs = [plan.codec(stage.node, hop.target.id) for hop in costs.hops[index : index + 1]]
    codecs += [plan.codec(source, stage.node) for source in neighbours]
    options = TrainingOptions(
        sequences=workload.microbatch,
        length=workload.length,
        in_flight=in_flight(costs, index, workload.schedule, chunks),
        recompute=workload.recompute,
        optimizer=workload.optimizer,
        codec=max((codec or RAW for codec in codecs), key=lambda c: c.state_bytes_per_value, default=RAW),
    )
    return training_memory(shape, stage.first, stage.last, options)


def _stages(
    costs: PipelineCosts, plan: Plan, shape: ModelShape, workload: TrainWorkload, step_s: float, chunks: int
) -> list[StageForecast]:
    found = []
    for j, (stage, node) in enumerate(zip(costs.stages, costs.nodes, strict=True)):
        memory, devices = _memory(costs, j, plan, shape, workload, chunks), len(stage.devices)
        seconds = costs.forward_s[j] + costs.backward_s[j]
        whole = UNDIVIDED + (1 - UNDIVIDED) / devices
        found.append(
            StageForecast(
                pipeline=costs.index,
                node=node.id,
                devices=stage.devices,
                first=stage.first,
                last=stage.last,
                seconds=seconds,
                share=(seconds * costs.microbatches + costs.optimizer_s[j]) / step_s,
                weights_bytes=ceil(memory.weights / devices),
                cache_bytes=ceil(memory.activations * whole),
                other_bytes=ceil((memory.gradients + memory.optimizer + memory.logits) / devices)
                + memory.codec_buffers,
                cap_bytes=node.device.memory_bytes,
            )
        )
    return found


def _links(pipelines: Sequence[PipelineCosts], step_s: float, times: int) -> tuple[LinkForecast, ...]:
    """Those that carry activations, each direction once; `times` as often with interleaved pieces."""
    sent: dict[tuple[NodeId, NodeId], float] = {}
    width: dict[tuple[NodeId, NodeId], float] = {}
    for costs in pipelines:
        for hop in costs.hops:
            ways = (
                (hop.source, hop.target, hop.forth, hop.forth_bytes),
                (hop.target, hop.source, hop.back, hop.back_bytes),
            )
            for source, target, link, nbytes in ways:
                key = (source.id, target.id)
                width[key] = link.bandwidth_bytes_per_s
                sent[key] = sent.get(key, 0.0) + times * costs.microbatches * nbytes / step_s
    return tuple(LinkForecast(*key, sent[key], sent[key] / width[key]) for key in sent if key[0] != key[1])


def _bottleneck(
    pipelines: Sequence[PipelineCosts],
    pipelines_s: Sequence[float],
    step_s: float,
    last: int,
    exchanges: Sequence[float],
) -> str:
    slowest = max(range(len(pipelines)), key=lambda i: pipelines_s[i])
    costs, pipeline_s = pipelines[slowest], pipelines_s[slowest]
    if step_s - pipeline_s > pipeline_s:
        return (
            f"The exchange of gradients: the {len(pipelines)} machines with stage {last + 1} need "
            f"{exchanges[last]:.1f} s for it in a step of {step_s:.1f} s."
        )
    both = [forth + back for forth, back in zip(costs.forward_s, costs.backward_s, strict=True)]
    wires = [max(hop.forth_wire_s, hop.back_wire_s) for hop in costs.hops]
    stage = max(range(len(both)), key=both.__getitem__)
    hop = max(range(len(wires)), key=wires.__getitem__, default=0)
    if wires and wires[hop] > both[stage]:
        names = f"{costs.hops[hop].source.name} -> {costs.hops[hop].target.name}"
        return f"The link {names}: {wires[hop]:.2f} s a microbatch, while the slowest stage takes {both[stage]:.2f} s."
    share = both[stage] * costs.microbatches / step_s
    name = costs.nodes[stage].name
    if share > 0.5:
        return f"Stage {stage + 1} of {len(both)} on {name} computes for {share:.0%} of the step."
    return (
        f"Waiting: with {costs.microbatches} microbatches in {len(both)} stages even the busiest, on {name}, computes "
        f"for {share:.0%} of the step; more microbatches or shorter links would help."
    )
