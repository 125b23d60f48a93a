"""What a search hands back, whatever it searched for. Knows no search."""

from dataclasses import dataclass
from typing import Generic, TypeVar

from muster.spec.plan import Plan

Forecast = TypeVar("Forecast", covariant=True)


@dataclass(frozen=True, slots=True)
class Alternative(Generic[Forecast]):
    """A plan that was looked at and not taken."""

    plan: Plan
    forecast: Forecast
    why: str
    """Why it was not taken, in one sentence."""


@dataclass(frozen=True, slots=True)
class Found(Generic[Forecast]):
    plan: Plan
    forecast: Forecast
    bound: float
    """No plan of this kind can do better on the objective: at least so many seconds, or at most so much a second."""
    gap: float
    """Between the plan and the bound, as a share of the bound; zero means optimal."""
    alternatives: tuple[Alternative[Forecast], ...] = ()
    """The best that were rejected, the best first."""
    evaluations: int = 0
    """Plans that were priced."""
