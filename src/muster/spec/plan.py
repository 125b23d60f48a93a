"""Which machine does what. One type, whatever searched for it. Knows nothing of the search."""

from dataclasses import dataclass

from muster.spec.pool import NodeId


@dataclass(frozen=True, slots=True)
class Stage:
    """Layers [first, last) on one node."""

    node: NodeId
    first: int
    last: int

    @property
    def num_layers(self) -> int:
        return self.last - self.first


@dataclass(frozen=True, slots=True)
class Pipeline:
    """An ordered chain of stages that covers every layer once, and how full it may be run."""

    stages: tuple[Stage, ...]
    num_pages: int
    """KV pages that every stage reserves; page k means the same tokens on each of them."""
    page_size: int
    """Tokens per page."""
    num_microbatches: int
    """Steps in flight at once, so that every stage is busy while others wait for the wire."""

    def nodes(self) -> tuple[NodeId, ...]:
        return tuple(stage.node for stage in self.stages)


@dataclass(frozen=True, slots=True)
class Plan:
    model: str
    pipelines: tuple[Pipeline, ...]
    standbys: tuple[NodeId, ...] = ()
    step_seconds: float = 0.0
    """Forecast of the slowest stage's time for one decode step."""
    explanation: str = ""
    """Why this split, in words."""
