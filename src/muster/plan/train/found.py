"""What the search for a training plan hands back."""

from dataclasses import dataclass
from typing import NamedTuple

from muster.spec.forecast import TrainForecast
from muster.spec.plan import Plan


class Rejected(NamedTuple):
    plan: Plan
    forecast: TrainForecast
    why: str
    """One sentence: what it does worse than the plan that was chosen."""


@dataclass(frozen=True)
class Found:
    plan: Plan
    forecast: TrainForecast
    bound: float
    """No plan has a shorter step, in seconds."""
    alternatives: tuple[Rejected, ...]
    """The best of other numbers of replicas and stages, the best first."""
    evaluations: int
    """Layouts priced."""
    finished: bool = True
    """False if the search was cut short from outside."""

    @property
    def gap(self) -> float:
        """How far the step is above the bound, as a share of it; zero means optimal."""
        return max(0.0, self.forecast.step_s / self.bound - 1.0) if self.bound > 0 else float("inf")
