"""How long a request waits: for a place among those that run, and for prompts that came before its own."""

from dataclasses import dataclass, replace
from math import exp, inf, sqrt
from statistics import NormalDist

from muster.sim.serve.loads import chunks_of, prompt_load
from muster.sim.serve.ring import Ring
from muster.sim.serve.steady_state import SteadyState, steady_state, steps_of
from muster.spec.workload import ServeWorkload


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
    more = steady_state(ring, workload, max(1.0, state.sequences) * 1.2, at_random=True)
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
    chunks, together = chunks_of(workload, prefill_tokens), max(1, prefill_tokens // workload.prompt_tokens)
    one = prompt_load(workload, state.loads[0][1].decodes, prefill_tokens)
    _, step_s = steps_of(ring, replace(one, chunks=one.chunks * together))
    taken_s = chunks * step_s
    busy = min(load, requests_per_s * taken_s / together)
    queue = waiting(pipelines * together, taken_s, busy)
    return replace(queue, chance=queue.chance * busy)
