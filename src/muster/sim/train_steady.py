"""The forecast of a training step, put together: pipelines, exchange, memory, and what bounds it in words."""

from collections.abc import Sequence
from math import ceil

from muster.cost.training_memory import TrainingMemory, TrainingOptions, training_memory
from muster.sim.relay import Exchange, Relay, exchange_seconds
from muster.sim.relay_rhythm import last_backward_s, pipeline_seconds
from muster.spec.codec import RAW
from muster.spec.forecast import LinkForecast, StageForecast, TrainForecast
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Plan
from muster.spec.pool import NodeId, Pool
from muster.spec.workload import TrainWorkload

UNDIVIDED = 10 / 34
"""Of the activations, what tensor parallelism leaves whole on each device (Korthikanti et al., 2022, eqs. 1 and 2)."""


def forecast(
    relays: Sequence[Relay],
    plan: Plan,
    pool: Pool,
    shape: ModelShape,
    workload: TrainWorkload,
    exchange: Exchange,
    chunks: int,
) -> TrainForecast:
    pipelines_s = [pipeline_seconds(relay, workload, chunks) for relay in relays]
    pipeline_s = max(pipelines_s)
    pieces = chunks if workload.schedule == "interleaved" else 1
    ends = [last_backward_s(relay, whole_s, pieces) for relay, whole_s in zip(relays, pipelines_s, strict=True)]
    exchanges = [
        exchange_seconds(plan, pool, shape, [(relay.stages[j], relay.nodes[j]) for relay in relays], exchange)
        for j in range(len(relays[0].stages))
    ]
    finish = [
        max(end[j] for end in ends) + exchanges[j] + max(relay.optimizer_s[j] for relay in relays)
        for j in range(len(exchanges))
    ]
    step_s = max(finish)
    tokens = sum(relay.microbatches for relay in relays) * workload.microbatch * workload.length
    return TrainForecast(
        step_s=step_s,
        tokens_per_s=tokens / step_s,
        pipeline_s=pipeline_s,
        exchange_s=max(0.0, step_s - pipeline_s),
        stages=tuple(stage for relay in relays for stage in _stages(relay, plan, shape, workload, step_s, chunks)),
        links=_links(relays, step_s, pieces),
        bottleneck=_bottleneck(relays, pipelines_s, step_s, finish.index(step_s), exchanges),
    )


def in_flight(relay: Relay, stage: int, schedule: str, chunks: int) -> int:
    """Microbatches of which a stage keeps activations at once: all of them with GPipe, else what its window holds.

    Interleaved: 2 (S - s) - 1 + (v - 1) S pieces of 1/v each (Narayanan et al., 2021, section 2.2).
    """
    count = len(relay.stages)
    if schedule == "gpipe":
        return relay.microbatches
    if schedule == "interleaved":
        return min(relay.microbatches, ceil((2 * (count - stage) - 1 + (chunks - 1) * count) / chunks))
    return min(relay.microbatches, count - stage)


def _memory(
    relay: Relay, index: int, plan: Plan, shape: ModelShape, workload: TrainWorkload, chunks: int
) -> TrainingMemory:
    stage = relay.stages[index]
    neighbours = [hop.source.id for hop in relay.hops[index - 1 : index]]
    codecs = [plan.codec(stage.node, hop.target.id) for hop in relay.hops[index : index + 1]]
    codecs += [plan.codec(source, stage.node) for source in neighbours]
    options = TrainingOptions(
        sequences=workload.microbatch,
        length=workload.length,
        in_flight=in_flight(relay, index, workload.schedule, chunks),
        recompute=workload.recompute,
        optimizer=workload.optimizer,
        codec=max((codec or RAW for codec in codecs), key=lambda c: c.state_bytes_per_value, default=RAW),
    )
    return training_memory(shape, stage.first, stage.last, options)


def _stages(
    relay: Relay, plan: Plan, shape: ModelShape, workload: TrainWorkload, step_s: float, chunks: int
) -> list[StageForecast]:
    found = []
    for j, (stage, node) in enumerate(zip(relay.stages, relay.nodes, strict=True)):
        memory, devices = _memory(relay, j, plan, shape, workload, chunks), len(stage.devices)
        seconds = relay.forward_s[j] + relay.backward_s[j]
        whole = UNDIVIDED + (1 - UNDIVIDED) / devices
        found.append(
            StageForecast(
                pipeline=relay.index,
                node=node.id,
                devices=stage.devices,
                first=stage.first,
                last=stage.last,
                seconds=seconds,
                share=(seconds * relay.microbatches + relay.optimizer_s[j]) / step_s,
                weights_bytes=ceil(memory.weights / devices),
                cache_bytes=ceil(memory.activations * whole),
                other_bytes=ceil((memory.gradients + memory.optimizer + memory.logits) / devices)
                + memory.codec_buffers,
                cap_bytes=node.device.memory_bytes,
            )
        )
    return found


def _links(relays: Sequence[Relay], step_s: float, times: int) -> tuple[LinkForecast, ...]:
    """Those that carry activations, each direction once; `times` as often with interleaved pieces."""
    sent: dict[tuple[NodeId, NodeId], float] = {}
    width: dict[tuple[NodeId, NodeId], float] = {}
    for relay in relays:
        for hop in relay.hops:
            ways = (
                (hop.source, hop.target, hop.forth, hop.forth_bytes),
                (hop.target, hop.source, hop.back, hop.back_bytes),
            )
            for source, target, link, nbytes in ways:
                key = (source.id, target.id)
                width[key] = link.bandwidth_bytes_per_s
                sent[key] = sent.get(key, 0.0) + times * relay.microbatches * nbytes / step_s
    return tuple(LinkForecast(*key, sent[key], sent[key] / width[key]) for key in sent if key[0] != key[1])


def _bottleneck(
    relays: Sequence[Relay], pipelines_s: Sequence[float], step_s: float, last: int, exchanges: Sequence[float]
) -> str:
    slowest = max(range(len(relays)), key=lambda i: pipelines_s[i])
    relay, pipeline_s = relays[slowest], pipelines_s[slowest]
    if step_s - pipeline_s > pipeline_s:
        return (
            f"The exchange of gradients: the {len(relays)} machines with stage {last + 1} need {exchanges[last]:.1f} s "
            f"for it in a step of {step_s:.1f} s."
        )
    both = [forth + back for forth, back in zip(relay.forward_s, relay.backward_s, strict=True)]
    wires = [max(hop.forth_wire_s, hop.back_wire_s) for hop in relay.hops]
    stage = max(range(len(both)), key=both.__getitem__)
    hop = max(range(len(wires)), key=wires.__getitem__, default=0)
    if wires and wires[hop] > both[stage]:
        names = f"{relay.hops[hop].source.name} -> {relay.hops[hop].target.name}"
        return f"The link {names}: {wires[hop]:.2f} s a microbatch, while the slowest stage takes {both[stage]:.2f} s."
    share = both[stage] * relay.microbatches / step_s
    name = relay.nodes[stage].name
    if share > 0.5:
        return f"Stage {stage + 1} of {len(both)} on {name} computes for {share:.0%} of the step."
    return (
        f"Waiting: with {relay.microbatches} microbatches in {len(both)} stages even the busiest, on {name}, computes "
        f"for {share:.0%} of the step; more microbatches or shorter links would help."
    )
