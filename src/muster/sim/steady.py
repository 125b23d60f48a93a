"""Forecasts in closed form, for searches that ask thousands of times. Pure.

`stage_seconds` are step times that were measured, by node; they take the place of computed ones. For training they are
the seconds of one microbatch forth and back.
"""

from collections.abc import Mapping, Sequence
from math import inf

from muster.cost.memory import WorkspaceOptions, device_bytes
from muster.cost.pace import TYPICAL, Constants
from muster.errors import InvalidRequest
from muster.sim import limits, train_steady
from muster.sim.relay import Exchange, relays
from muster.sim.relay_rhythm import CHUNKS
from muster.sim.rhythm import Rhythm, Waiting, deviation_s, rhythm, under_rate, waiting
from muster.sim.ring import BatchRules, Ring
from muster.spec.forecast import LinkForecast, ServeForecast, StageForecast, TrainForecast
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Plan
from muster.spec.pool import NodeId, Pool
from muster.spec.workload import ServeWorkload, TrainWorkload


def serve_forecast(
    plan: Plan,
    pool: Pool,
    shape: ModelShape,
    workload: ServeWorkload,
    constants: Constants = TYPICAL,
    *,
    rules: BatchRules = BatchRules(),
    stage_seconds: Mapping[NodeId, float] | None = None,
) -> ServeForecast:
    """What all pipelines do together under the workload; see `sim/rhythm.py` for the formulas.

    Where more is asked for than the pool can do, times to the first token and to the last are infinite: the queue
    grows without end. Raises `DoesNotFit` if one request is too long for a pipeline's pages, `PoolUnavailable` on a
    dead link, `InvalidRequest` on a workload or a plan that cannot be.
    """
    check(workload)
    rings = [Ring(plan, i, pool, shape, constants, rules, stage_seconds) for i in range(len(plan.pipelines))]
    if not rings:
        raise InvalidRequest("The plan has no pipeline; plan again.", "plan")
    full = [rhythm(r, workload, r.resident(workload.prompt_tokens, workload.output_tokens)) for r in rings]
    return _forecast(rings, full, workload)


def check(workload: ServeWorkload) -> None:
    """Raises `InvalidRequest` on lengths or rates that cannot be."""
    if workload.prompt_tokens < 1 or workload.output_tokens < 1:
        raise InvalidRequest("A request has at least one prompt and one output token; give lengths from 1 on.")
    if workload.requests_per_s is not None and not 0 < workload.requests_per_s < inf:
        raise InvalidRequest(f"{workload.requests_per_s} requests a second cannot be; give a rate above 0.", "rate")
    if workload.deadline_s is not None and not workload.deadline_s > 0:
        raise InvalidRequest(f"A deadline of {workload.deadline_s} s cannot be met; give one above 0.", "deadline")


def _forecast(rings: Sequence[Ring], full: Sequence[Rhythm], workload: ServeWorkload) -> ServeForecast:
    capacity = sum(beat.requests_per_s for beat in full)
    rate = workload.requests_per_s
    load = 1.0 if rate is None else rate / capacity
    # Requests go to pipelines as those can take them, so all are equally loaded.
    beats = [under_rate(r, workload, load * beat.requests_per_s, beat) for r, beat in zip(rings, full, strict=True)]
    shares = [beat.requests_per_s / capacity for beat in full]
    waits = [_wait(beat, workload, load) for beat in full]
    outputs = workload.output_tokens
    answered = capacity * min(1.0, load)
    turns = [_pace_of_steps(beat, answered * share) for beat, share in zip(beats, shares, strict=True)]
    busiest = max(range(len(rings)), key=lambda i: max(turns[i] * t for t in (*beats[i].stage_s, *beats[i].wire_s)))
    return ServeForecast(
        tokens_per_s=answered * outputs,
        capacity_tokens_per_s=capacity * outputs,
        time_to_first_token_s=_mean(shares, [w.expected_s + b.first_s for w, b in zip(waits, beats, strict=True)]),
        seconds_per_token=_mean(shares, [beat.token_s for beat in beats]),
        request_s=_mean(shares, [w.expected_s + b.service_s(outputs) for w, b in zip(waits, beats, strict=True)]),
        attainment=_attainment(workload, rings, shares, waits, beats),
        stages=tuple(s for r, b, turn in zip(rings, beats, turns, strict=True) for s in _stages(r, b, turn)),
        links=_links(rings, beats, turns),
        bottleneck=limits.serving(rings[busiest], beats[busiest], workload, load <= 1),
    )


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
    """One optimizer step; see `sim/relay_rhythm.py` for the formulas. Links are those that carry activations.

    `chunks` are the pieces of each machine's layers under the interleaved schedule. Raises `InvalidRequest` on a plan
    that cannot train, `PoolUnavailable` on a dead link.
    """
    pipelines = relays(plan, pool, shape, workload, constants, stage_seconds)
    return train_steady.forecast(pipelines, plan, pool, shape, workload, exchange, chunks)


def _wait(full: Rhythm, workload: ServeWorkload, load: float) -> Waiting:
    if workload.requests_per_s is None:
        return Waiting(0.0, 0.0)
    return waiting(full.sequences, full.service_s(workload.output_tokens), load)


def _pace_of_steps(beat: Rhythm, requests_per_s: float) -> float:
    """Steps a second: those without a pause, less the pauses between requests."""
    return requests_per_s / (beat.requests_per_s * beat.period_s)


def _mean(shares: Sequence[float], values: Sequence[float]) -> float:
    return sum(share * value for share, value in zip(shares, values, strict=True))


def _attainment(
    workload: ServeWorkload,
    rings: Sequence[Ring],
    shares: Sequence[float],
    waits: Sequence[Waiting],
    beats: Sequence[Rhythm],
) -> float | None:
    """All requests are equally long; what they wait differs, and how many others they meet."""
    if workload.deadline_s is None:
        return None
    chances = []
    for ring, wait, beat in zip(rings, waits, beats, strict=True):
        left_s = workload.deadline_s - beat.service_s(workload.output_tokens)
        spread_s = deviation_s(ring, workload, beat) if workload.requests_per_s is not None else 0.0
        chances.append(wait.within(left_s, spread_s) if wait.mean_s < inf else 0.0)
    return _mean(shares, chances)


def _stages(ring: Ring, beat: Rhythm, steps_per_s: float) -> list[StageForecast]:
    pipeline = ring.pipeline
    options = WorkspaceOptions().of_steps(ring.rules.prefill_tokens, pipeline.serve.batch)
    found = []
    for stage, node, seconds in zip(ring.stages, ring.nodes, beat.stage_s, strict=True):
        weights, cache, other = device_bytes(
            ring.shape,
            stage.first,
            stage.last,
            pipeline.work.cache_tokens,
            options,
            len(stage.devices),
        )
        found.append(
            StageForecast(
                pipeline=ring.index,
                node=node.id,
                devices=stage.devices,
                first=stage.first,
                last=stage.last,
                seconds=seconds,
                share=min(1.0, seconds * steps_per_s),
                weights_bytes=weights,
                cache_bytes=cache,
                other_bytes=other,
                cap_bytes=node.device.memory_bytes,
            )
        )
    return found


def _links(rings: Sequence[Ring], beats: Sequence[Rhythm], turns: Sequence[float]) -> tuple[LinkForecast, ...]:
    """Each direction once, with what all pipelines send over it."""
    sent: dict[tuple[NodeId, NodeId], float] = {}
    width: dict[tuple[NodeId, NodeId], float] = {}
    for ring, beat, steps_per_s in zip(rings, beats, turns, strict=True):
        for hop, wire_s in zip(ring.hops, beat.wire_s, strict=True):
            key = (hop.source.id, hop.target.id)
            width[key] = hop.link.bandwidth_bytes_per_s
            sent[key] = sent.get(key, 0.0) + wire_s * width[key] * steps_per_s
    return tuple(LinkForecast(*key, sent[key], sent[key] / width[key]) for key in sent if key[0] != key[1])
