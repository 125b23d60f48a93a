"""What a search for a plan hands back, whatever it planned. Knows no search."""

from dataclasses import dataclass
from typing import Generic, TypeVar

from muster.spec.forecast import ServeForecast, TrainForecast
from muster.spec.plan import Plan
from muster.spec.workload import TRAINING, Objective

LOOSE = 0.5
"""A bound that is further from the plan, as a share of it, says nothing of how good the plan is."""
ForecastT = TypeVar("ForecastT", bound=ServeForecast | TrainForecast, covariant=True)


@dataclass(frozen=True)
class Rejected(Generic[ForecastT]):
    """A plan that was not chosen."""

    plan: Plan
    forecast: ForecastT
    why: str
    """One sentence: what it does worse than the plan that was chosen."""


@dataclass(frozen=True)
class Found(Generic[ForecastT]):
    """The plan that was chosen, and what it was chosen from."""

    plan: Plan
    forecast: ForecastT
    objective: Objective
    score: float
    """The objective's value: tokens/s, tokens/s per dollar an hour, share of requests in time (as simulated, where the
    forecast is a closed form), or seconds: of a request (latency), of a step (training)."""
    bound: float
    """No plan has a better score: at most this, or at least this where the score is in seconds."""
    alternatives: tuple[Rejected[ForecastT], ...]
    """The best plans that were not chosen, the best first."""
    evaluations: int
    """Replicas designed, or layouts priced."""
    finished: bool = True
    """False if the search was cut short from outside."""

    @property
    def gap(self) -> float:
        """By how much the bound is better than the plan, as a share of the worse of the two; zero means optimal."""
        in_seconds = self.objective == "latency" or self.objective in TRAINING
        if self.score <= self.bound if in_seconds else self.score >= self.bound:
            return 0.0
        low, high = sorted((self.score, self.bound))
        return high / low - 1.0 if low > 0 else float("inf")
