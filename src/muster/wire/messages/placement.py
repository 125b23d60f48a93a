"""Control channel: which stage a node is to hold, how far it has come, and what it lost."""

from muster.spec.few_bits import AS_STORED, FewBits
from muster.spec.plan import Pipeline, Stage
from muster.wire.messages.base import Address, EpochMessage


class Assign(EpochMessage, frozen=True, tag="assign"):
    """Hold stage `index` of `pipeline` under `epoch`: load the weights, get ready for its work, answer `Loaded`.

    `peers` says how to dial each node of the pipeline. Messages of another epoch have nothing to do with it.
    """

    job: str
    """What the pipeline works for, by name: a service, a training run."""
    model: str
    manifest: str
    """BLAKE3 of the model's manifest; the manifest and its blobs can be fetched from the head on the bulk channel."""
    dtype: str
    index: int
    pipeline: Pipeline
    peers: tuple[Address, ...]
    few_bits: FewBits = AS_STORED
    """In what weights and KV pages are held beyond what `dtype` says."""

    @property
    def stages(self) -> tuple[Stage, ...]:
        return self.pipeline.stages

    @property
    def mine(self) -> Stage:
        """The stage that the receiver is to hold, alone or with others."""
        return self.pipeline.stages[self.index]

    def rank(self, node: str) -> int:
        """Which member of its stage a machine is."""
        return self.mine.members.index(node)


class LoadProgress(EpochMessage, frozen=True, tag="load_progress"):
    done_bytes: int
    total_bytes: int


class Loaded(EpochMessage, frozen=True, tag="loaded"):
    """The stage is in memory and ready."""


class LoadFailed(EpochMessage, frozen=True, tag="load_failed"):
    code: str
    reason: str


class Release(EpochMessage, frozen=True, tag="release"):
    """Drop the stage of `epoch` and its pages; go back to the standby pool."""


class StageLost(EpochMessage, frozen=True, tag="stage_lost"):
    """Node to broker: the link to `peer`, a neighbour in the pipeline, is down."""

    peer: str
    reason: str
