"""One pipeline of a simulated plan through all its repairs. Knows nothing of requests."""

from dataclasses import dataclass, field

from muster.sim.serve.dispatch import Speed
from muster.sim.serve.pipeline_run import PipelineRun
from muster.sim.serve.ring import Ring
from muster.spec.plan import Pipeline


@dataclass(slots=True, eq=False)
class PipelineSlot:
    """One pipeline of the plan, through all its repairs."""

    index: int
    ring: Ring
    speed: Speed
    planned: Pipeline = field(init=False)
    """As it was at first."""
    run: PipelineRun | None = None
    load: int = 0
    """Requests that it has."""
    runs: list[PipelineRun] = field(default_factory=list)
    """All that it ever had."""

    def __post_init__(self) -> None:
        self.planned = self.ring.pipeline

    def expected_s(self) -> float:
        """Of one more request."""
        return self.speed.expected_s(self.load)
