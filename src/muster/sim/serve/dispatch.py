"""To which pipeline a request goes, and how many each then has. Knows no events.

To the one that is expected to answer it first: that takes as long as alone, and longer by what is there already.

    expected = seconds of a request alone + requests there / requests a second that the pipeline can answer
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt

from muster.sim.serve.ring import Ring
from muster.sim.serve.steady_state import SteadyState, steady_state
from muster.sim.serve.waiting import waiting_for_prompts
from muster.spec.workload import ServeWorkload

_BISECTIONS, _DEALS, _SETTLED = 40, 14, 2
_FEW = 1e-6
_LEAST_OWN = 0.5
"""So many more than the mean does a request meet at least, itself counted, however well requests are dealt out."""
_BUSIEST = 0.97
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


@dataclass(frozen=True, slots=True)
class Share:
    """What one pipeline has of the requests."""

    part: float
    """Of all of them."""
    state: SteadyState
    """In which a request finds it, itself counted."""
    queue_s: float
    """Until there is room for it, where more are sent than can run at once because others take longer still."""


def dealt_out(rings: Sequence[Ring], full: Sequence[SteadyState], workload: ServeWorkload) -> list[Share]:
    """What each pipeline has.

    Little's law says how many there are: rate x time there. Who comes at random meets that many others and is one more
    (Poisson arrivals see time averages); of several pipelines it goes to one that has few. Where the pool cannot keep
    up, all pipelines are `full`.
    """
    capacity, rate = sum(state.requests_per_s for state in full), workload.requests_per_s
    if rate is None or rate >= capacity:
        return [Share(state.requests_per_s / capacity, state, 0.0) for state in full]
    speeds = [speed_of(ring, workload, state) for ring, state in zip(rings, full, strict=True)]
    low, high = _FEW, _MANY * sum(state.sequences for state in full)
    for _ in range(_DEALS):
        middle = sqrt(low * high)
        there, with_one_more = spread(speeds, middle), spread(speeds, middle + 1)
        found = [
            _settled(ring, workload, one, count, max(_LEAST_OWN, more - count), len(rings))
            for ring, one, count, more in zip(rings, full, there, with_one_more, strict=True)
        ]
        low, high = (middle, high) if sum(one.part for one in found) < rate else (low, middle)
    total = sum(one.part for one in found)
    return [replace(one, part=one.part / total) for one in found]


def _settled(ring: Ring, workload: ServeWorkload, full: SteadyState, there: float, own: float, pipelines: int) -> Share:
    """A pipeline with so many on the mean; its `part` is in requests a second. Some of them wait for prompts."""
    running, wait_s = there, 0.0
    for _ in range(_SETTLED):
        state = steady_state(ring, workload, min(max(1.0, running + own), full.sequences), at_random=True)
        service_s = state.service_s(workload.output_tokens)
        rate = min(there / (service_s + wait_s), full.requests_per_s)
        waits = waiting_for_prompts(ring, workload, state, rate, _BUSIEST, pipelines)
        wait_s = waits.expected_s
        running = there * service_s / (service_s + wait_s)
    rate = min(there / (service_s + wait_s), full.requests_per_s)
    return Share(rate, state, max(0.0, there / full.requests_per_s - service_s - wait_s))


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


def spread(speeds: Sequence[Speed], requests: float) -> list[float]:
    """So many requests, each where it is expected to be answered first."""
    low = 0.0
    high = max(speed.expected_s(requests) for speed in speeds)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(one.taken(middle) for one in speeds) < requests else (low, middle)
    return [speed.taken(high) for speed in speeds]
