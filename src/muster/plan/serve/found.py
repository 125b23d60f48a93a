"""The result of a search for a serving plan."""

from dataclasses import dataclass
from typing import NamedTuple

from muster.plan.serve.options import Objective
from muster.spec.forecast import ServeForecast
from muster.spec.plan import Plan


class Rejected(NamedTuple):
    plan: Plan
    forecast: ServeForecast
    why: str
    """One sentence: what it does worse than the plan that was chosen."""


@dataclass(frozen=True)
class Found:
    plan: Plan
    forecast: ServeForecast
    objective: Objective
    score: float
    """The objective's value: tokens/s, tokens/s per dollar an hour, share of requests in time (as simulated, where the
    forecast is a closed form), or (latency) seconds."""
    bound: float
    """No plan has a better score: at most this, for `latency` at least this."""
    alternatives: tuple[Rejected, ...]
    """The best plans that were not chosen, the best first."""
    evaluations: int
    """Replicas designed."""
    finished: bool = True
    """False if the search was cut short from outside."""

    @property
    def gap(self) -> float:
        """By how much the bound is better than the plan, as a share of the worse of the two; zero means optimal."""
        low, high = sorted((self.score, self.bound))
        if self.objective == "latency":
            return 0.0 if self.score <= self.bound else high / low - 1.0 if low else float("inf")
        return 0.0 if self.score >= self.bound else high / low - 1.0 if low else float("inf")
