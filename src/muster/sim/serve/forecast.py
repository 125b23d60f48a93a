"""The forecast of serving in closed form, for searches that ask thousands of times. Pure.

`stage_seconds` are step times that were measured, by node; they take the place of computed ones.
"""

from collections.abc import Mapping, Sequence
from math import inf

from muster.cost.memory import WorkspaceOptions, device_bytes
from muster.cost.pace import TYPICAL, Constants
from muster.errors import InvalidRequest
from muster.sim.serve.bottleneck import bottleneck
from muster.sim.serve.dispatch import Share, at_a_time, dealt_out
from muster.sim.serve.offload import offload_forecast
from muster.sim.serve.ring import BatchRules, Ring
from muster.sim.serve.steady_state import SteadyState, steady_state
from muster.sim.serve.waiting import Waiting, deviation_s, waiting, waiting_for_prompts
from muster.spec.forecast import LinkForecast, ServeForecast, StageForecast
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Plan
from muster.spec.pool import NodeId, Pool
from muster.spec.workload import ServeWorkload


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
    """What all pipelines do together under the workload; see `sim/serve/steady_state.py` for the formulas.

    Where more is asked for than the pool can do, times to the first token and to the last are infinite: the queue
    grows without end. Raises `DoesNotFit` if one request is too long for a pipeline's pages, `PoolUnavailable` on a
    dead link, `InvalidRequest` on a workload or a plan that cannot be.
    """
    check(workload)
    if plan.offloads:
        return offload_forecast(plan, pool, shape, workload, constants)
    rings = [Ring(plan, i, pool, shape, constants, rules, stage_seconds) for i in range(len(plan.pipelines))]
    if not rings:
        raise InvalidRequest("The plan has no pipeline; plan again.", "plan")
    full = [steady_state(r, workload, r.resident(workload.prompt_tokens, workload.output_tokens)) for r in rings]
    if workload.concurrency is not None:
        full = at_a_time(rings, full, workload, workload.concurrency)
    return _forecast(rings, full, workload)


def check(workload: ServeWorkload) -> None:
    """Raises `InvalidRequest` on lengths or rates that cannot be."""
    if workload.prompt_tokens < 1 or workload.output_tokens < 1:
        raise InvalidRequest("A request has at least one prompt and one output token; give lengths from 1 on.")
    if workload.requests_per_s is not None and not 0 < workload.requests_per_s < inf:
        raise InvalidRequest(f"{workload.requests_per_s} requests a second cannot be; give a rate above 0.", "rate")
    if workload.concurrency is not None and (workload.concurrency < 1 or workload.requests_per_s is not None):
        raise InvalidRequest(
            "Either a rate at which requests come or how many are there at a time, at least 1; give one of the two.",
            "concurrency",
        )
    if workload.deadline_s is not None and not workload.deadline_s > 0:
        raise InvalidRequest(f"A deadline of {workload.deadline_s} s cannot be met; give one above 0.", "deadline")


def _forecast(rings: Sequence[Ring], full: Sequence[SteadyState], workload: ServeWorkload) -> ServeForecast:
    capacity = sum(state.requests_per_s for state in full)
    rate = workload.requests_per_s
    load = 1.0 if rate is None else rate / capacity
    dealt = dealt_out(rings, full, workload)
    shares, states = [one.part for one in dealt], [one.state for one in dealt]
    outputs = workload.output_tokens
    answered = capacity * min(1.0, load)
    waits = [
        _wait(ring, one, workload, share, load, answered, len(rings))
        for ring, one, share in zip(rings, full, dealt, strict=True)
    ]
    turns = [_pace_of_steps(state, answered * share) for state, share in zip(states, shares, strict=True)]
    # What limits the pool is what limits the pipeline that answers most, as far as that is at work.
    busy = [turn * max(*state.stage_s, *state.wire_s, 0.0) for turn, state in zip(turns, states, strict=True)]
    most = max(range(len(rings)), key=lambda i: shares[i] * busy[i])
    return ServeForecast(
        tokens_per_s=answered * outputs,
        capacity_tokens_per_s=capacity * outputs,
        time_to_first_token_s=_mean(shares, [w.expected_s + b.first_s for w, b in zip(waits, states, strict=True)]),
        seconds_per_token=_mean(shares, [state.token_s for state in states]),
        request_s=_mean(shares, [w.expected_s + b.service_s(outputs) for w, b in zip(waits, states, strict=True)]),
        attainment=_attainment(workload, rings, shares, waits, states),
        stages=tuple(s for r, b, turn in zip(rings, states, turns, strict=True) for s in _stages(r, b, turn)),
        links=_links(rings, states, turns),
        bottleneck=bottleneck(rings[most], states[most], workload, capacity),
    )


def _wait(
    ring: Ring,
    full: SteadyState,
    workload: ServeWorkload,
    dealt: Share,
    load: float,
    answered_per_s: float,
    pipelines: int,
) -> Waiting:
    """For a place among the sequences that run, and for prompts that came before."""
    if workload.requests_per_s is None:
        return Waiting(0.0, 0.0)
    place = waiting(full.sequences, full.service_s(workload.output_tokens), load)
    if dealt.queue_s > place.expected_s:
        return Waiting(1.0, dealt.queue_s)
    return place.and_then(
        waiting_for_prompts(ring, workload, dealt.state, dealt.part * answered_per_s, load, pipelines)
    )


def _pace_of_steps(state: SteadyState, requests_per_s: float) -> float:
    """Steps a second: those without a pause, less the pauses between requests."""
    return requests_per_s / (state.requests_per_s * state.period_s)


def _mean(shares: Sequence[float], values: Sequence[float]) -> float:
    return sum(share * value for share, value in zip(shares, values, strict=True))


def _attainment(
    workload: ServeWorkload,
    rings: Sequence[Ring],
    shares: Sequence[float],
    waits: Sequence[Waiting],
    states: Sequence[SteadyState],
) -> float | None:
    """All requests are equally long; what they wait differs, and how many others they meet."""
    if workload.deadline_s is None:
        return None
    chances = []
    for ring, wait, state in zip(rings, waits, states, strict=True):
        left_s = workload.deadline_s - state.service_s(workload.output_tokens)
        spread_s = deviation_s(ring, workload, state) if workload.requests_per_s is not None else 0.0
        chances.append(wait.within(left_s, spread_s) if wait.mean_s < inf else 0.0)
    return min(1.0, _mean(shares, chances))


def _stages(ring: Ring, state: SteadyState, steps_per_s: float) -> list[StageForecast]:
    pipeline = ring.pipeline
    options = WorkspaceOptions().of_steps(ring.rules.prefill_tokens, pipeline.serve.batch)
    found = []
    for stage, node, seconds in zip(ring.stages, ring.nodes, state.stage_s, strict=True):
        weights, cache, other = device_bytes(
            ring.shape,
            stage.first,
            stage.last,
            pipeline.work.cache_tokens,
            options,
            stage.degree,
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


def _links(rings: Sequence[Ring], states: Sequence[SteadyState], turns: Sequence[float]) -> tuple[LinkForecast, ...]:
    """Each direction once, with what all pipelines send over it."""
    sent: dict[tuple[NodeId, NodeId], float] = {}
    width: dict[tuple[NodeId, NodeId], float] = {}
    for ring, state, steps_per_s in zip(rings, states, turns, strict=True):
        for hop, wire_s in zip(ring.hops, state.wire_s, strict=True):
            key = (hop.source.id, hop.target.id)
            width[key] = hop.link.bandwidth_bytes_per_s
            sent[key] = sent.get(key, 0.0) + wire_s * width[key] * steps_per_s
    return tuple(LinkForecast(*key, sent[key], sent[key] / width[key]) for key in sent if key[0] != key[1])
