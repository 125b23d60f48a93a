"""What the node and the kinds of work know of each other. Knows no kind of work, and of the node only this page.

A kind of work is checked when a stage of it is assigned, and built once there is room. What it builds is a runner: one
stage of one placement. The node hands it every message of its epoch and knows none of them; who may say what is the
runner's business.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch

from muster.compress.registry import Coder, check_known
from muster.errors import MusterError, ProtocolViolation, Unsupported
from muster.link.base import short_id
from muster.link.identity import Identity
from muster.model.stage import Stage
from muster.model.weights import Weights
from muster.spec.guesses import GuessCounts
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Draft
from muster.spec.pool import NodeId
from muster.wire.frame import Payload
from muster.wire.messages.base import Address, EpochMessage
from muster.wire.messages.every import AnyMessage
from muster.wire.messages.placement import Assign

Result = TypeVar("Result")
Send = Callable[[AnyMessage, Payload], None]
"""Queue a message (and its payload) for a peer; never waits."""
Again = Callable[[], Sequence[tuple[AnyMessage, Payload]] | None]
"""What a peer may not have got, in the order in which it left; None where that is not known any more."""


@dataclass(frozen=True, slots=True)
class RunnerVitals:
    """How a runner is, as heartbeats tell."""

    active_requests: int = 0
    steps: int = 0
    """Computed so far."""
    computing_s: float = 0.0
    """How long the step at hand has been computing; 0 between steps."""
    busy_s: float = 0.0
    """Spent computing in steps that are over."""
    received: int = 0
    """Steps that came from the stage before; at the first stage of a ring, steps that came back."""
    sent: int = 0
    """Steps that were passed to the stage behind."""
    guesses: GuessCounts = field(default_factory=GuessCounts)
    """At the first stage of a ring."""
    in_flight: int = 0
    """Steps that the first stage of a ring keeps in flight."""


class Runner(Protocol):
    """One stage of one placement. All calls come from the event loop; `run` is called once, `close` after it ended."""

    def receive(self, peer: NodeId, message: EpochMessage, payload: Payload, reply: Send) -> None:
        """A message of this placement. Raises `ProtocolViolation` where `peer` may not say it; its channel is closed.

        `reply` answers on the channel that it came on, and is the same for all messages of one channel.
        """

    def forget(self, reply: Send) -> None:
        """The channel behind `reply` is gone: nobody reads an answer any more."""

    async def run(self) -> None:
        """Work until cancelled. Whatever this raises ends the stage, and the head hears of it.

        Whoever waits for answers must have been told by then. `Cheated` blames the neighbour that it names.
        """

    def vitals(self) -> RunnerVitals: ...

    async def close(self) -> None:
        """Returns when nothing computes any more; where a step hangs, that is never."""


class Cheated(ProtocolViolation):
    """A stage broke over what `peer` sent."""

    def __init__(self, peer: NodeId, reason: str) -> None:
        super().__init__(reason)
        self.peer = peer


class Place(Protocol):
    """What the node gives to one placement until it is dropped."""

    @property
    def assign(self) -> Assign: ...

    @property
    def node(self) -> NodeId:
        """This one."""

    @property
    def head(self) -> NodeId: ...

    @property
    def identity(self) -> Identity | None:
        """With which this node signs; None where it has none and signs nothing."""

    def tell(self, message: AnyMessage) -> None:
        """Say something to the head, which is passed on to nobody where it is gone."""

    def speed(self) -> float:
        """Below 1 a slower machine is rehearsed; see `thread`. It may change between steps."""

    async def load(
        self,
        needed_bytes: Callable[[ModelShape], int],
        assemble: Callable[[Stage, ModelShape], Result],
        host_bytes: Callable[[ModelShape], int] = lambda shape: 0,
    ) -> Result:
        """Get the layers of this stage into memory and make of them what does the work. Called once, if at all.

        `needed_bytes` says what both take together on the device, `host_bytes` what they take of the host's memory
        beside it; `assemble` runs in a thread. Raises `MusterError`.
        """

    async def load_draft(
        self, draft: Draft, needed_bytes: Callable[[ModelShape], int], assemble: Callable[[Stage, ModelShape], Result]
    ) -> Result:
        """Likewise a whole other model, before the layers."""

    async def load_weights(
        self, needed_bytes: Callable[[ModelShape], int], build: Callable[[Weights, ModelShape, torch.device], Result]
    ) -> Result:
        """Instead of `load`, where the work is not to serve: what `build` makes of the weights of this stage's layers.

        Runs in a thread, for the device that this machine lends. Raises `MusterError`.
        """

    def vocabulary(self) -> bytes:
        """The packed `text/calls.Spellings` of the model's tokenizer, once the last layers are loaded.

        Blocks; raises `MusterError`.
        """

    async def reach(self, node: NodeId, again: "Again | None" = None) -> Send:
        """A channel to another node of the pipeline, proven to work; its loss is reported. Raises `MusterError`.

        With `again`, a channel that breaks is opened once more, and what that gives is sent before all else.
        """

    async def reach_beside(self, address: Address, lost: Callable[[MusterError], None]) -> Send:
        """A channel to a node of another pipeline of the same job, for which the head vouches.

        `lost` hears of its loss. Raises `MusterError`.
        """

    async def reach_directly(self, address: Address, lost: Callable[[MusterError], None]) -> Send:
        """Likewise to a node of this placement, never through the head: that would read what is sent."""

    def admit(self, nodes: Collection[NodeId]) -> None:
        """Nodes of other pipelines of the same job, and no others any more, may dial this one."""

    def coder(self, source: NodeId, target: NodeId) -> Coder:
        """How tensors travel on this link. It may keep a memory of what it sent: ask once for each use."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of work on this node."""

    check: Callable[[Any], None]
    """Raises `ProtocolViolation` where settings of this kind make no sense."""
    build: Callable[[Place], Awaitable[Runner]]
    """A runner that is ready for its first message. Raises `MusterError`."""
    verb: str = "Serving"
    """What people are told that this machine does then."""


class Kinds:
    """The kinds of work that a node can do, by the type of their settings."""

    def __init__(self, kinds: Mapping[type, Kind]) -> None:
        self._kinds = kinds

    def check(self, assign: Assign) -> None:
        """Raise `MusterError` where this node cannot do the work, or nobody could."""
        work = assign.pipeline.work
        self._of(work).check(work)
        for link in assign.pipeline.codecs:
            check_known(link.codec)

    def verb(self, assign: Assign) -> str:
        return self._of(assign.pipeline.work).verb

    async def build(self, place: Place) -> Runner:
        return await self._of(place.assign.pipeline.work).build(place)

    def _of(self, work: object) -> Kind:
        kind = self._kinds.get(type(work))
        if kind is None:
            raise Unsupported(f"This node knows no work with {type(work).__name__}; update Muster on it.")
        return kind


def refuse(peer: NodeId, message: object) -> ProtocolViolation:
    """For `raise`: this peer may not say this."""
    kind = type(message).__name__
    return ProtocolViolation(f"Node {short_id(peer)} sent a {kind}, which its place in the pipeline forbids.")
