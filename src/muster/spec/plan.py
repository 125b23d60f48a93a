"""Which machine does what: pipelines of stages, each with the kind of work it does. Knows no search.

Plan ── pipelines (replicas) ─┬─ stages in order ── a layer range on some devices of one island (tensor parallel)
                              └─ work ── how it serves, or how it trains
"""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import msgspec

from muster.spec.codec import Codec
from muster.spec.pool import NodeId
from muster.spec.tiers import Tier
from muster.spec.token_shards import TokenShards
from muster.spec.workload import TrainWorkload

Order = Literal["rows", "zigzag", "diagonal"]
"""In which order a stage that keeps weights elsewhere passes its microbatches through its layers:

rows      each microbatch through all layers, alone: every one of them reads all weights again
zigzag    a layer of all microbatches of the block, then the next layer: a step of the block reads weights once
diagonal  the same, but sequences join the block as others leave it, so that prompts pass beside tokens and the cache
          holds what sequences of all ages need, not all of them at their longest (FlexGen, arXiv 2303.06865, A.2)
"""


@dataclass(frozen=True, slots=True)
class MemoryPolicy:
    """Shares of a stage that its devices keep; the rest lies in host memory, and what that does not hold on disk.

    FlexGen's percentages (arXiv 2303.06865, section 4.2): of weights, cache and activations. Weights are those that a
    step reads whole, layers and head. Their shares are of the bytes of every layer alike, by whole tensors
    (`offload/choice` says which); of the cache by whole microbatches or pages; of activations (the hidden states
    between two layers of all microbatches that are not being computed) by whole microbatches.
    """

    weights_on_device: float = 1.0
    weights_on_host: float = 0.0
    cache_on_device: float = 1.0
    cache_on_host: float = 0.0
    activations_on_device: float = 1.0
    activations_on_host: float = 0.0
    microbatch: int = 0
    """Sequences that get a token in one layer at once; 0 leaves it to the engine."""
    num_microbatches: int = 1
    """In a block, which passes each layer before the next one's weights are wanted."""
    order: Order = "zigzag"
    attention: Literal["device", "host"] = "device"
    """Where attention over cache in host memory runs: the cache comes to the device, or queries go to the host."""
    prompt_tokens: int = 0
    """That pass a layer at once; 0 leaves it to the engine."""
    embedding: Tier = "device"
    """Where it lies: a step reads single rows of it."""

    device_bytes: int = 0
    """Promised to a stage that offloads, of its device's memory: what it takes in all. 0 where nobody has said."""
    host_bytes: int = 0
    """Likewise of host memory."""

    @property
    def block(self) -> int:
        """Sequences in it."""
        return self.microbatch * self.num_microbatches

    @property
    def offloads(self) -> bool:
        """Whether anything lies outside the device."""
        return min(self.weights_on_device, self.cache_on_device, self.activations_on_device) < 1

    @property
    def shares(self) -> dict[str, tuple[float, float]]:
        """On the device and in host memory, of what."""
        return {
            "weights": (self.weights_on_device, self.weights_on_host),
            "cache": (self.cache_on_device, self.cache_on_host),
            "activations": (self.activations_on_device, self.activations_on_host),
        }

    def broken_share(self, tolerance: float = 1e-9) -> str | None:
        """What is kept in shares that make no whole, or None."""
        for what, (here, there) in self.shares.items():
            if not (0 <= here <= 1 and 0 <= there <= 1 and here + there <= 1 + tolerance):
                return what
        return None


ON_DEVICE = MemoryPolicy()


@dataclass(frozen=True, slots=True)
class Stage:
    """Layers [first, last) on one node, split over `devices` of it (tensor parallel).

    In a pool that runs, every device is lent by a process of its own, and several make an island: then `node` is the
    one that speaks with the ring, and `others` hold the stage with it.
    """

    node: NodeId
    first: int
    last: int
    devices: tuple[int, ...] = (0,)
    """Which of the node's devices, counted from 0; their number is the tensor-parallel degree."""
    memory: MemoryPolicy = ON_DEVICE
    others: tuple[NodeId, ...] = ()
    """With one device each."""

    @property
    def num_layers(self) -> int:
        return self.last - self.first

    @property
    def members(self) -> tuple[NodeId, ...]:
        """The machines that hold it, by their rank."""
        return (self.node, *self.others)

    @property
    def degree(self) -> int:
        """Of tensor parallelism: how many devices hold it."""
        return len(self.devices) + len(self.others)


@dataclass(frozen=True, slots=True)
class Draft:
    """A small model that runs whole beside the first stage and guesses tokens."""

    model: str
    manifest: str
    """BLAKE3 of its manifest; manifest and blobs can be fetched from the head."""
    num_layers: int
    nbytes: int
    """Of its weights, pages and workspace."""


class ServeSettings(msgspec.Struct, frozen=True, tag_field="kind", tag="serve", forbid_unknown_fields=True):
    """How a pipeline serves, and how full it may be run."""

    num_pages: int
    """Places for KV pages that every stage reserves on its device, and without swap the pages that there are."""
    page_size: int
    """Tokens per page."""
    num_microbatches: int
    """Steps in flight at once, so that every stage is busy while others wait for the wire. The engine begins with so
    many, and goes on with what its own steps tell it."""
    batch: int = 0
    """Sequences per microbatch; 0 leaves it to the engine."""
    swap_pages: int = 0
    """Of `num_pages`, one of two equal slices through which cache in host memory is swapped (DeServe, section 4.2)."""
    prefill_tokens: int = 0
    """Most prompt tokens in one step; 0 leaves it to the engine."""
    eos_token_ids: tuple[int, ...] = ()
    """Tokens that end a sequence unless a request ignores them. Plans leave them to whoever knows the model."""
    draft: Draft | None = None
    """Likewise."""
    max_microbatches: int = 0
    """Most that the engine may come to keep in flight; 0 leaves it to the engine."""

    @property
    def cache_tokens(self) -> int:
        """Tokens that a device holds at once."""
        return self.num_pages * self.page_size

    @property
    def all_pages(self) -> int:
        """KV pages that sequences fill; page k means the same tokens on every stage. With swap, more than places.

        DeServe, arXiv 2501.14784, section 4.2: M'_B = (M_KV - 2 M_G) / N + M_G for each of N microbatches. In a ring of
        fewer than three there is nothing to gain.
        """
        return self.num_pages + max(0, self.num_microbatches - 2) * self.swap_pages

    @property
    def host_tokens(self) -> int:
        """Tokens of cache that host memory holds: with swap, a place for each page."""
        return self.all_pages * self.page_size if self.swap_pages else 0


class TrainSettings(msgspec.Struct, frozen=True, tag_field="kind", tag="train", forbid_unknown_fields=True):
    """What a pipeline computes in one optimizer step."""

    num_microbatches: int
    """Of this pipeline."""
    microbatch: int = 1
    """Texts in each."""
    length: int = 0
    """Tokens of each text; 0 leaves it to whoever knows the run."""
    recompute: bool = False
    """Compute activations again on the way back instead of keeping them."""
    schedule: Literal["gpipe", "1f1b", "interleaved"] = "1f1b"
    precision: Literal["float32", "bfloat16"] = "float32"
    """What is multiplied in; weights, sums and optimizer are in float32."""

    @property
    def workload(self) -> TrainWorkload:
        """Of this pipeline alone."""
        texts = self.num_microbatches * self.microbatch
        return TrainWorkload(texts, self.length, self.microbatch, "adamw", self.recompute, self.schedule)

    @property
    def cache_tokens(self) -> int:
        """Nothing is generated, so there is no KV cache."""
        return 0


class PrivateSettings(msgspec.Struct, frozen=True, tag_field="kind", tag="private", forbid_unknown_fields=True):
    """Who has which roles of a private session. Its stages are no chain: each holds all layers, for some tokens."""

    client: NodeId
    """Who may speak with them."""
    cluster: int
    comp_nodes: int
    shards: int
    roles: tuple[tuple[int, ...], ...]
    """Of each stage's machine."""
    owners: tuple[str, ...]
    """Of each stage's machine."""
    max_tokens: int
    """Of a sequence."""
    cache_tokens: int
    """Of all sequences together."""
    past: tuple[str, ...] = ()
    """Owners whose machines had roles and lost them: they have read a part of the same prompts."""

    @property
    def rule(self) -> TokenShards:
        return TokenShards(self.cluster, self.comp_nodes, self.shards)

    @property
    def num_microbatches(self) -> int:
        """One step at a time."""
        return 1


WorkSettings = ServeSettings | TrainSettings | PrivateSettings
"""The kinds of work that a pipeline may do."""


@dataclass(frozen=True, slots=True)
class CodedLink:
    """One direction of a link that carries something other than raw values."""

    source: NodeId
    target: NodeId
    codec: Codec


@dataclass(frozen=True, slots=True)
class Pipeline:
    """An ordered chain of stages that covers every layer once, and what kind of work it does.

    In a private session every stage has all layers, and tokens are shared out instead.
    """

    stages: tuple[Stage, ...]
    work: WorkSettings
    codecs: tuple[CodedLink, ...] = ()
    """Links between its stages that are not named here send values as they are."""

    def nodes(self) -> tuple[NodeId, ...]:
        """Those that speak with each other, one for each stage."""
        return tuple(stage.node for stage in self.stages)

    def members(self) -> tuple[NodeId, ...]:
        """All that hold anything of it."""
        return tuple(node for stage in self.stages for node in stage.members)

    @property
    def serve(self) -> ServeSettings:
        """Its work where it serves. Raises `TypeError` where it does something else."""
        if not isinstance(self.work, ServeSettings):
            raise TypeError(f"a pipeline with {type(self.work).__name__} does not serve")
        return self.work

    @property
    def train(self) -> TrainSettings:
        """Its work where it trains. Raises `TypeError` where it does something else."""
        if not isinstance(self.work, TrainSettings):
            raise TypeError(f"a pipeline with {type(self.work).__name__} does not train")
        return self.work

    @property
    def private(self) -> PrivateSettings:
        """Its work where it is a private session. Raises `TypeError` where it is something else."""
        if not isinstance(self.work, PrivateSettings):
            raise TypeError(f"a pipeline with {type(self.work).__name__} is no private session")
        return self.work

    @property
    def covers_layers_once(self) -> bool:
        """Whether its stages are a chain without gaps; in a private session, whether each has all layers."""
        if isinstance(self.work, PrivateSettings):
            return all((stage.first, stage.last) == (0, self.stages[0].last) for stage in self.stages)
        return self.stages[0].first == 0 and all(one.last == other.first for one, other in pairwise(self.stages))

    @property
    def offloads(self) -> bool:
        """Whether any of its stages keeps a part outside its devices."""
        return any(stage.memory.offloads for stage in self.stages)

    def with_work(self, **changes: Any) -> "Pipeline":
        """The same stages with some settings of their work changed."""
        return replace(self, work=msgspec.structs.replace(self.work, **changes))

    def codec(self, source: NodeId, target: NodeId) -> Codec | None:
        """What the link carries; None for raw values."""
        return next((link.codec for link in self.codecs if (link.source, link.target) == (source, target)), None)


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

    @property
    def only_pipeline(self) -> Pipeline:
        """Of a plan by a planner of one pipeline, which is what the broker asks for each of its pipelines.

        Raises `ValueError` where there are several, or none.
        """
        (pipeline,) = self.pipelines
        return pipeline

    @property
    def first_replica(self) -> Pipeline:
        """Where all are alike in what is asked of it, as in training in their cuts. Raises `IndexError` without any."""
        return self.pipelines[0]

    @property
    def trains(self) -> bool:
        """Whether this is a plan for training; all pipelines of one plan do the same kind of work."""
        return any(isinstance(pipeline.work, TrainSettings) for pipeline in self.pipelines)

    @property
    def offloads(self) -> bool:
        """Whether any stage keeps a part outside its devices."""
        return any(pipeline.offloads for pipeline in self.pipelines)

    @property
    def codecs(self) -> tuple[CodedLink, ...]:
        """Of all pipelines."""
        return tuple(link for pipeline in self.pipelines for link in pipeline.codecs)

    def codec(self, source: NodeId, target: NodeId) -> Codec | None:
        """What the link carries, whichever pipeline uses it; None for raw values."""
        found = (pipeline.codec(source, target) for pipeline in self.pipelines)
        return next((codec for codec in found if codec is not None), None)
