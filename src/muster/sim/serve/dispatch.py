"""To which pipeline a request goes, and how many each then has. Knows no events.

To the one that is expected to answer it first: that takes as long as alone, and longer by what is there already.

    expected = seconds of a request alone + requests there / requests a second that the pipeline can answer
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from muster.sim.serve.ring import Ring
from muster.sim.serve.steady_state import SteadyState, steady_state
from muster.spec.workload import ServeWorkload

_BISECTIONS = 40
_MANY = 100.0
"""Times as many as run at once are there at most, however close the rate comes to what the pool can do."""


@dataclass(frozen=True, slots=True)
class Speed:
    """Of one pipeline, for requests of a kind."""

    alone_s: float
    """A request that has it to itself."""
    requests_per_s: float
    """Of a full one."""

    def expected_s(self, others: float) -> float:
        """Of one more request."""
        return self.alone_s + others / self.requests_per_s

    def taken(self, expected_s: float) -> float:
        """Requests that it has when the next one is expected to take so long, on the mean."""
        return max(0.0, (expected_s - self.alone_s) * self.requests_per_s + 0.5)


def speed_of(ring: Ring, workload: ServeWorkload, full: SteadyState | None = None) -> Speed:
    full = full or steady_state(ring, workload, ring.resident(workload.prompt_tokens, workload.output_tokens))
    alone_s = steady_state(ring, workload, 1.0).service_s(workload.output_tokens)
    return Speed(alone_s, full.requests_per_s)


def dealt_out(
    rings: Sequence[Ring], full: Sequence[SteadyState], workload: ServeWorkload
) -> tuple[list[float], list[SteadyState]]:
    """Shares of the requests that go to each pipeline, and the state in which a request finds it.

    Little's law says how many there are: rate x time in service. Who comes at random meets that many others and is one
    more (Poisson arrivals see time averages). Where the pool cannot keep up, all pipelines are `full`.
    """
    capacity, rate = sum(state.requests_per_s for state in full), workload.requests_per_s
    if rate is None or rate >= capacity:
        return [state.requests_per_s / capacity for state in full], list(full)
    speeds = [speed_of(ring, workload, state) for ring, state in zip(rings, full, strict=True)]
    low, high = 0.0, _MANY * sum(state.sequences for state in full)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        there, with_one_more = spread(speeds, middle), spread(speeds, middle + 1)
        states = [
            steady_state(ring, workload, min(max(1.0, count), state.sequences))
            for ring, state, count in zip(rings, full, with_one_more, strict=True)
        ]
        rates = [_rate(*one, workload) for one in zip(there, with_one_more, states, strict=True)]
        low, high = (middle, high) if sum(rates) < rate else (low, middle)
    return [one / sum(rates) for one in rates], states


def at_a_time(
    rings: Sequence[Ring], full: Sequence[SteadyState], workload: ServeWorkload, concurrency: int
) -> list[SteadyState]:
    """States of the pipelines where so many requests are there in all, or as many as run at once."""
    speeds = [speed_of(ring, workload, state) for ring, state in zip(rings, full, strict=True)]
    found = []
    for ring, most, part in zip(rings, full, spread(speeds, concurrency), strict=True):
        state = steady_state(ring, workload, min(max(1.0, part), most.sequences))
        # Of a pipeline that has no request for a part of the time.
        found.append(replace(state, requests_per_s=state.requests_per_s * min(1.0, part)))
    return found


def _rate(there: float, with_one_more: float, state: SteadyState, workload: ServeWorkload) -> float:
    """Requests a second, where so many are there on the mean; less than could be answered without a pause."""
    busy = there / max(1.0, with_one_more)
    return min(there / state.service_s(workload.output_tokens), busy * state.requests_per_s)


def spread(speeds: Sequence[Speed], requests: float) -> list[float]:
    """So many requests, each where it is expected to be answered first."""
    low = 0.0
    high = max(speed.expected_s(requests) for speed in speeds)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(one.taken(middle) for one in speeds) < requests else (low, middle)
    return [speed.taken(high) for speed in speeds]
