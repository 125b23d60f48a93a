"""What a simulated pool did: the figures of a forecast, measured, and those that only a simulation has."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import inf

import numpy as np

from muster.sim.timeline import Span
from muster.spec.forecast import LinkForecast
from muster.spec.pool import NodeId


@dataclass(frozen=True, slots=True)
class RequestRun:
    """Times from the start of the simulation; infinite for what never came."""

    arrival_s: float
    first_token_s: float
    end_s: float
    output_tokens: int
    resubmissions: int = 0
    """How often it started over because its pipeline broke."""

    @property
    def time_to_first_token_s(self) -> float:
        return self.first_token_s - self.arrival_s

    @property
    def request_s(self) -> float:
        return self.end_s - self.arrival_s

    @property
    def seconds_per_token(self) -> float:
        return (self.end_s - self.first_token_s) / max(1, self.output_tokens - 1)


@dataclass(frozen=True, slots=True)
class StageRun:
    pipeline: int
    node: NodeId
    share: float
    """Of the time that it was busy."""
    seconds: float
    """Of one step, on the mean."""


@dataclass(frozen=True, slots=True)
class ServeRun:
    tokens_per_s: float
    """Of the whole run, its filling and emptying among it."""
    steady_tokens_per_s: float
    """While the middle three fifths of all tokens came."""
    time_to_first_token_s: float
    """The mean, as the next two. Of requests that were answered."""
    seconds_per_token: float
    request_s: float
    attainment: float | None
    """Share of all requests within the deadline; None without one."""
    finished: int
    unfinished: int
    duration_s: float
    """Until the last token."""
    preemptions: int
    resubmissions: int
    swapped_pages: int
    """Moved out of device memory, and back in, by swapping."""
    peak_pages: tuple[int, ...]
    """Most pages in use at once, by pipeline."""
    stages: tuple[StageRun, ...]
    links: tuple[LinkForecast, ...]
    requests: tuple[RequestRun, ...]
    """In order of arrival."""
    spans: tuple[Span, ...]
    events: int

    def first_token_quantile(self, share: float) -> float:
        """The time to the first token that `share` of the answered requests did not exceed."""
        return _quantile([request.time_to_first_token_s for request in self.requests], share)

    def request_quantile(self, share: float) -> float:
        """The same of the time to the last token."""
        return _quantile([request.request_s for request in self.requests], share)


def _quantile(values: Sequence[float], share: float) -> float:
    finite = [value for value in values if value < inf]
    return float(np.quantile(finite, share)) if finite else inf


def mean(values: Sequence[float]) -> float:
    finite = [value for value in values if value < inf]
    return sum(finite) / len(finite) if finite else inf


def steady_rate(tokens: Sequence[tuple[float, int]]) -> float:
    """Tokens a second between the first and the last fifth of them."""
    in_order = sorted(tokens)
    so_far = list(accumulate(count for _, count in in_order))
    if not so_far:
        return 0.0
    first = next(i for i, total in enumerate(so_far) if total >= 0.2 * so_far[-1])
    last = next(i for i, total in enumerate(so_far) if total >= 0.8 * so_far[-1])
    seconds = in_order[last][0] - in_order[first][0]
    return (so_far[last] - so_far[first]) / seconds if seconds > 0 else 0.0
