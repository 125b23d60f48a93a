"""A ring in a steady state: how often it steps, how long a request takes. Closed forms; knows no events.

R sequences share a ring that keeps up to N steps in flight, so a step carries B = R / min(N, R) of them. Each request
of n output tokens is one prefill and n - 1 decodes, so of the B rows a share 1/n are prompts. Between two tokens of its
own a request meets the prompts of the R - 1 others only.

    period = max(T of the slowest stage, the longest time on a wire, (sum of T + hops) / min(N, R))
    tokens per second = B / period

DeServe, arXiv 2501.14784, section 4, with T the mean over steps with and without a prompt chunk.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil, exp, floor, inf, sqrt
from statistics import NormalDist

from muster.sim.serve.ring import Ring
from muster.sim.serve.stage_time import StepLoad
from muster.spec.workload import ServeWorkload

Loads = tuple[tuple[float, StepLoad], ...]
"""(share of the steps, what they carry)."""


@dataclass(frozen=True, slots=True)
class SteadyState:
    """Of one ring with `sequences` in it, on the mean."""

    sequences: float
    in_flight: float
    loads: Loads
    stage_s: tuple[float, ...]
    """Of one step."""
    wire_s: tuple[float, ...]
    period_s: float
    """From one step to the next."""
    others_period_s: float
    """The same among steps without one of the sequences' prompts: what lies between the tokens of that one."""
    first_s: float
    """From a request's arrival to its first token, if it has not to wait for a place."""
    requests_per_s: float
    """Finished, as long as others take their place."""

    @property
    def token_s(self) -> float:
        """Between two tokens of one request: once around with everybody else."""
        return self.in_flight * self.others_period_s

    def service_s(self, output_tokens: int) -> float:
        """To its last token."""
        return self.first_s + (output_tokens - 1) * self.token_s


def steady_state(ring: Ring, workload: ServeWorkload, sequences: float) -> SteadyState:
    in_flight = min(float(ring.in_flight), max(1.0, sequences))
    # A step takes only so many prompt tokens, and no more requests can run than are let in.
    prompts = max(1.0, sequences) / in_flight / workload.output_tokens
    prompts = min(prompts, ring.rules.prefill_tokens / workload.prompt_tokens)
    loads = step_loads(workload, prompts, ring.rules.prefill_tokens)
    stage_s = _means(loads, [pace.seconds for pace in ring.paces], at_least=ring.swap_s)
    wire_s = _means(loads, [hop.wire_s for hop in ring.hops])
    period_s = _period(ring, stage_s, wire_s, in_flight)
    quiet = loads[0][1].without_prompts()
    others = 1 - 1 / max(1.0, sequences)
    quiet_s = tuple(max(ring.swap_s, pace.seconds(quiet)) for pace in ring.paces)
    quiet_wire_s = tuple(hop.wire_s(quiet) for hop in ring.hops)
    between_s = _between(quiet_s, stage_s, others)
    # Where all places in flight are taken, a newcomer waits for a step to return, and half of the time for one more.
    # A token that comes back is handed out when the head is done with the step that it computes next.
    waits = min(1.0, max(0.0, sequences / in_flight - 1))
    # Whoever is alone gets the last one at once, because nothing more is computed.
    hand_s = between_s[0] if ring.hops else 0.0
    more = workload.output_tokens - 1
    turn_s = waits * period_s + (hand_s if more else others * hand_s)
    sooner_s = (1 - others) * hand_s / more if more else 0.0
    return SteadyState(
        sequences=sequences,
        in_flight=in_flight,
        loads=loads,
        stage_s=stage_s,
        wire_s=wire_s,
        period_s=period_s,
        others_period_s=_period(ring, between_s, _between(quiet_wire_s, wire_s, others), in_flight)
        - sooner_s / in_flight,
        first_s=turn_s + in_flight * period_s + _prefill_excess(ring, workload, loads, sum(stage_s) + sum(wire_s)),
        requests_per_s=prompts / period_s,
    )


def _period(ring: Ring, stage_s: Sequence[float], wire_s: Sequence[float], in_flight: float) -> float:
    return max(*stage_s, *wire_s, (sum(stage_s) + sum(wire_s) + ring.hops_s) / in_flight)


def _between(low: Sequence[float], high: Sequence[float], share: float) -> tuple[float, ...]:
    return tuple(a + share * (b - a) for a, b in zip(low, high, strict=True))


def step_loads(workload: ServeWorkload, prompts: float, prefill_tokens: int) -> Loads:
    """Steps with and without a prompt chunk, where `prompts` requests start per step on the mean.

    Prompts are lumps: a mean over steps of different length is not the length of the mean step.
    """
    decodes = prompts * (workload.output_tokens - 1)
    context = workload.prompt_tokens + workload.output_tokens / 2
    chunks = ceil(workload.prompt_tokens / prefill_tokens)
    if chunks == 1:
        whole = floor(prompts)
        counts = [(1 - prompts + whole, whole), (prompts - whole, whole + 1)]
        lump = ((0, workload.prompt_tokens),)
        mixes = [(share, lump * count, float(count)) for share, count in counts]
    else:
        share = min(1.0, prompts * chunks)
        length = round(prompts * workload.prompt_tokens / share)
        # Attention grows evenly from the first chunk to the last, so those two stand for all.
        ends = ((0, length), (workload.prompt_tokens - length, length))
        mixes = [(1 - share, (), 0.0), *((share / 2, (end,), 1.0 / chunks) for end in ends)]
    return tuple(
        (share, StepLoad(decodes, context, lumps, decodes + ended))
        for share, lumps, ended in mixes
        if share > 0 and (lumps or decodes)
    )


def _means(loads: Loads, seconds: Sequence[Callable[[StepLoad], float]], at_least: float = 0.0) -> tuple[float, ...]:
    total = sum(share for share, _ in loads)
    return tuple(sum(share * max(at_least, of(load)) for share, load in loads) / total for of in seconds)


def _prefill_excess(ring: Ring, workload: ServeWorkload, loads: Loads, round_s: float) -> float:
    """How much longer a prompt takes to go around than a mean step, its chunks one after the other.

    The next chunk follows as soon as the slowest stage or wire is done with this one, if a step may be in flight.
    """
    chunks = ceil(workload.prompt_tokens / ring.rules.prefill_tokens)
    load = prompt_load(workload, loads[0][1].decodes, ring.rules.prefill_tokens)
    around_s, follows_s = _steps_of(ring, load)
    return max(0.0, around_s - round_s) + (chunks - 1) * follows_s


def _steps_of(ring: Ring, load: StepLoad) -> tuple[float, float]:
    """(once around without links' latency, from one such step to the next)."""
    seconds = [pace.seconds(load) for pace in ring.paces]
    wires = [hop.wire_s(load) for hop in ring.hops]
    around_s = sum(seconds) + sum(wires)
    return around_s, max(*seconds, *wires, (around_s + ring.hops_s) / ring.in_flight)


def prompt_load(workload: ServeWorkload, decodes: float, prefill_tokens: int) -> StepLoad:
    """A step that takes in a prompt, or the middle one of its chunks, beside so many decodes."""
    context = workload.prompt_tokens + workload.output_tokens / 2
    chunks = ceil(workload.prompt_tokens / prefill_tokens)
    length = round(workload.prompt_tokens / chunks)
    return StepLoad(decodes, context, ((workload.prompt_tokens // 2 if chunks > 1 else 0, length),), decodes + 1)


@dataclass(frozen=True, slots=True)
class Waiting:
    """For a place in the ring: with probability `chance`, and then exponential with mean `mean_s`."""

    chance: float
    mean_s: float

    @property
    def expected_s(self) -> float:
        return self.chance * self.mean_s

    def and_then(self, other: "Waiting") -> "Waiting":
        chance = 1 - (1 - self.chance) * (1 - other.chance)
        return Waiting(chance, (self.expected_s + other.expected_s) / chance if chance else 0.0)

    def within(self, mean_s: float, deviation_s: float) -> float:
        """Probability of waiting no longer than a normally distributed time."""
        in_time = NormalDist().cdf(mean_s / deviation_s) if deviation_s > 0 else float(mean_s >= 0)
        if mean_s < 0 or self.mean_s == 0:
            return in_time
        return in_time * (1.0 - self.chance * exp(-mean_s / self.mean_s))


def deviation_s(ring: Ring, workload: ServeWorkload, state: SteadyState) -> float:
    """Of the time in service, because sometimes more requests are there, and then each is slower.

    The number in an M/D/infinity queue has its mean as variance; over a service time, two thirds of that are left.
    """
    more = steady_state(ring, workload, max(1.0, state.sequences) * 1.2)
    slope = (more.service_s(workload.output_tokens) - state.service_s(workload.output_tokens)) / (
        more.sequences - state.sequences
    )
    return max(0.0, slope) * sqrt(2 / 3 * state.sequences)


def waiting(places: float, service_s: float, load: float) -> Waiting:
    """For one of `places` that are taken for `service_s` each and busy for a share `load` of the time.

    Sakasegawa's approximation of M/D/c ("An approximation formula", 1977):
    W = (1/2) x load^(sqrt(2 (c + 1)) - 1) / (c (1 - load)) x service.
    """
    if load >= 1:
        return Waiting(1.0, inf)
    chance = load ** (sqrt(2 * (places + 1)) - 1)
    return Waiting(chance, service_s / (2 * places * (1 - load)))


def waiting_for_prompts(
    ring: Ring, workload: ServeWorkload, state: SteadyState, requests_per_s: float, load: float, pipelines: int
) -> Waiting:
    """Until the prompts before one's own are computed: a step takes only so many of their tokens.

    Whoever comes goes to the emptiest of the `pipelines`, so these are as many places to be served at, and none is
    fuller than the pool, which is busy for a share `load` of the time. The step under way is counted in `first_s`.
    """
    prefill_tokens = ring.rules.prefill_tokens
    chunks, together = ceil(workload.prompt_tokens / prefill_tokens), max(1, prefill_tokens // workload.prompt_tokens)
    one = prompt_load(workload, state.loads[0][1].decodes, prefill_tokens)
    _, step_s = _steps_of(ring, replace(one, chunks=one.chunks * together))
    taken_s = chunks * step_s
    busy = min(load, requests_per_s * taken_s / together)
    queue = waiting(pipelines * together, taken_s, busy)
    return replace(queue, chance=queue.chance * busy)
