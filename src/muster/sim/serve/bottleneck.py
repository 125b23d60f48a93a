"""What keeps a plan from being faster, in one sentence. Knows no remedy beyond what the figures say."""

from math import ceil, inf

from muster.sim.serve.ring import Ring
from muster.sim.serve.steady_state import SteadyState
from muster.spec.workload import ServeWorkload

ALMOST = 0.999
"""A period this close to the longest of its causes is due to it."""


def bottleneck(ring: Ring, state: SteadyState, workload: ServeWorkload, bears_per_s: float) -> str:
    """`ring` is the pipeline that matters most, in the state `state`."""
    what = _cause(ring, state)
    if workload.requests_per_s is None:
        return f"{what}."
    if workload.requests_per_s > bears_per_s:
        too_many = f"{workload.requests_per_s:g} requests a second are more than the pool can answer"
        return f"{too_many}, which bears {bears_per_s:.3g}: {what}."
    return f"The pool keeps up with {workload.requests_per_s:g} requests a second; while it is at work, {what}."


def _cause(ring: Ring, state: SteadyState) -> str:
    stage = max(range(len(state.stage_s)), key=lambda i: state.stage_s[i])
    slowest = max(state.stage_s[stage], *state.wire_s) if state.wire_s else state.stage_s[stage]
    if slowest < ALMOST * state.period_s:
        around_s = sum(state.stage_s) + sum(state.wire_s) + ring.hops_s
        if around_s < ALMOST * state.period_s * state.in_flight:
            return _long_steps(state, slowest)
        return _latency(ring, state, slowest)
    if state.stage_s[stage] >= ALMOST * slowest:
        return _stage(ring, state, stage)
    hop = max(range(len(state.wire_s)), key=lambda i: state.wire_s[i])
    return _link(ring, state, hop)


def _stage(ring: Ring, state: SteadyState, index: int) -> str:
    stage, node = ring.stages[index], ring.nodes[index]
    computing = moving = other = 0.0
    for share, load in state.loads:
        parts = ring.paces[index].parts(load)
        computing, moving, other = computing + share * parts[0], moving + share * parts[1], other + share * parts[2]
    if ring.swap_s and state.stage_s[index] <= ring.swap_s * (1 + 1e-9):
        why = "and waits for cache from host memory"
    elif other > max(computing, moving):
        why = "mostly with what every step costs, whatever is in it" if computing or moving else "as it was measured"
    else:
        why = "computing" if computing > moving else "reading weights and cache from its memory"
    share = state.stage_s[index] / state.period_s
    return (
        f"stage {index + 1} of {len(ring.stages)} on {node.name} (layers {stage.first} to {stage.last - 1}) "
        f"is busy {share:.0%} of the time, {why}"
    )


def _link(ring: Ring, state: SteadyState, index: int) -> str:
    hop = ring.hops[index]
    share = state.wire_s[index] / state.period_s
    mbit = hop.link.bandwidth_bytes_per_s * 8e-6
    return (
        f"the link {hop.source.name} -> {hop.target.name} carries {share:.0%} of its {mbit:.0f} Mbit/s "
        f"while the slowest stage is busy {max(state.stage_s) / state.period_s:.0%} of the time"
    )


def _long_steps(state: SteadyState, slowest_s: float) -> str:
    return (
        "steps with prompts are much longer than the others, which wait for them around the ring: "
        f"the slowest stage is busy {slowest_s / state.period_s:.0%} of the time"
    )


def _latency(ring: Ring, state: SteadyState, slowest_s: float) -> str:
    around_s = state.period_s * state.in_flight
    enough = ceil(around_s / slowest_s - 1e-9) if slowest_s > 0 else inf
    travel_s = ring.hops_s + sum(state.wire_s)
    steps = f"{state.in_flight:.0f} step{'s' if round(state.in_flight) != 1 else ''} in flight"
    return (
        f"latency: {steps} cannot hide {travel_s * 1e3:.0f} ms of links around the ring; "
        f"{enough} would, with requests enough to fill them"
    )
