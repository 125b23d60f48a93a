"""Which machine does what, for serving and for training. One type, whatever searched for it. Knows no search.

Plan ── pipelines (replicas) ── stages in order ── a layer range on some devices of one node (tensor parallel)
"""

from dataclasses import dataclass
from typing import Literal

from muster.spec.codec import Codec
from muster.spec.pool import NodeId


@dataclass(frozen=True, slots=True)
class Stage:
    """Layers [first, last) on one node, split over `devices` of it (tensor parallel)."""

    node: NodeId
    first: int
    last: int
    devices: tuple[int, ...] = (0,)
    """Which of the node's devices, counted from 0; their number is the tensor-parallel degree."""

    @property
    def num_layers(self) -> int:
        return self.last - self.first


@dataclass(frozen=True, slots=True)
class Pipeline:
    """An ordered chain of stages that covers every layer once, and how full it may be run."""

    stages: tuple[Stage, ...]
    num_pages: int
    """KV pages that every stage reserves; page k means the same tokens on each of them. 0 for training."""
    page_size: int
    """Tokens per page."""
    num_microbatches: int
    """Steps in flight at once, so that every stage is busy while others wait for the wire.

    In training: microbatches that this pipeline computes per optimizer step.
    """
    batch: int = 0
    """Sequences per microbatch; 0 leaves it to the engine."""
    swap_pages: int = 0
    """Of `num_pages`, one of two equal slices through which cache in host memory is swapped (DeServe, section 4.2)."""
    prefill_tokens: int = 0
    """Most prompt tokens in one step; 0 leaves it to the engine."""

    def nodes(self) -> tuple[NodeId, ...]:
        return tuple(stage.node for stage in self.stages)


@dataclass(frozen=True, slots=True)
class CodedLink:
    """One direction of a link that carries something other than raw values."""

    source: NodeId
    target: NodeId
    codec: Codec


@dataclass(frozen=True, slots=True)
class Plan:
    model: str
    pipelines: tuple[Pipeline, ...]
    """Replicas. In training all of them are cut at the same layers; the j-th stages exchange gradients."""
    standbys: tuple[NodeId, ...] = ()
    step_seconds: float = 0.0
    """Forecast of the slowest stage's time for one decode step; in training, of one optimizer step."""
    explanation: str = ""
    """Why this split, in words."""
    purpose: Literal["serve", "train"] = "serve"
    codecs: tuple[CodedLink, ...] = ()
    """Links that are not named here send values as they are."""

    def codec(self, source: NodeId, target: NodeId) -> Codec | None:
        """What the link carries; None for raw values."""
        return next((link.codec for link in self.codecs if (link.source, link.target) == (source, target)), None)
