"""What the broker is told, and what it wants done. Knows nothing of who says it or does it.

A node may be connected twice for a moment (the old connection is a ghost), so both sides name connections by a number
that the shell gives out, never twice.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from muster.plan.quick.tables import PlanOptions
from muster.spec.capacity import UNKNOWN, Capacity
from muster.spec.plan import Pipeline, Plan
from muster.spec.pool import NodeId, Pool
from muster.spec.story import Caused
from muster.verify.receipts import ReceiptRing
from muster.wire.messages.base import Address
from muster.wire.messages.every import AnyMessage
from muster.wire.messages.membership import Hello
from muster.wire.messages.private import AskPrivate
from muster.wire.messages.receipts import Receipts

ConnectionId = int


@dataclass(frozen=True, slots=True)
class PipelineId:
    """Which of a job's pipelines. It stays the same when machines or layers change; each placement has a new epoch."""

    job: str
    number: int = 0

    def __str__(self) -> str:
        return f"{self.job}/{self.number}"


@dataclass(frozen=True, slots=True)
class Remembered:
    """What a restarted head knows of its pool."""

    epoch: int = 0
    pipelines: Mapping[PipelineId, Pipeline] = field(default_factory=dict)
    """The last placement of each."""
    known: Collection[NodeId] = ()
    banned: Collection[NodeId] = ()
    secrets: Collection[tuple[bytes, float]] = ()
    """(join secret, expiry in seconds since the Unix epoch)"""
    names: Mapping[NodeId, str] = field(default_factory=dict)
    """What the pool calls those who were here."""
    own: Collection[NodeId] = ()
    """That the operator has said to be theirs."""


@dataclass(frozen=True, slots=True)
class Exercise:
    """What a machine is to show now."""

    flops_per_s: Mapping[str, float]
    """By dtype, as it claims or as it is still believed."""
    held_bytes: int


@dataclass(frozen=True, slots=True)
class Shown:
    """What came of an exercise, as the head saw it. 0: nothing in time."""

    flops_per_s: Mapping[str, float] = field(default_factory=dict)
    held_bytes: int = 0
    round_trip_s: float | None = None
    """To the machine and back, as the head measured it."""
    fault: str = ""
    """What was wrong with the answers, as the end of a sentence."""


# --- events ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NodeJoined:
    """The first message on a control channel. The transport has authenticated `node`."""

    connection: ConnectionId
    node: NodeId
    hello: Hello
    wall_s: float
    """Seconds since the Unix epoch: tickets expire by the calendar, leases by the steady clock of `handle`."""


@dataclass(frozen=True, slots=True)
class PrivateAsked:
    """Likewise, of a client that wants machines for a private session."""

    connection: ConnectionId
    client: NodeId
    asked: AskPrivate
    wall_s: float


@dataclass(frozen=True, slots=True)
class Heard:
    """Any later message on a control channel."""

    connection: ConnectionId
    message: AnyMessage


@dataclass(frozen=True, slots=True)
class Disconnected:
    connection: ConnectionId


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""

    late_s: float = 0.0
    """What was said to the head in these last seconds may still lie unread, so busy is the head itself."""


@dataclass(frozen=True, slots=True)
class TicketIssued:
    """From now on, whoever proves to hold `secret` before `expires_s` (Unix epoch) may join."""

    secret: bytes
    expires_s: float


@dataclass(frozen=True, slots=True)
class DrainNode:
    """The operator wants nothing to run on this node any more."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class BanNode:
    """Out, now, and not in again."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class UnbanNode:
    node: NodeId


@dataclass(frozen=True, slots=True)
class ForgetNode:
    """A machine that is gone does not come back; or if it does, then as a stranger."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class TrustNode:
    """The operator says that this machine is one of theirs, or that it is not."""

    node: NodeId
    own: bool = True


@dataclass(frozen=True, slots=True)
class Exercised:
    """What came of an `Exert`."""

    connection: ConnectionId
    shown: Shown


@dataclass(frozen=True, slots=True)
class PipelineSuspected:
    """Somebody who waits for tokens of this epoch has heard nothing for too long."""

    epoch: int
    unreachable: bool = False
    """Not merely silent: the channel to its first stage is gone."""


@dataclass(frozen=True, slots=True)
class PlanFound:
    """What came of a `Search`; None where nothing did."""

    pipeline: PipelineId
    plan: Plan | None


@dataclass(frozen=True, slots=True)
class NodeAccused:
    """The head itself saw this node break the rules towards a client."""

    node: NodeId
    reason: str


Event = (
    NodeJoined
    | PrivateAsked
    | Heard
    | Disconnected
    | Tick
    | TicketIssued
    | DrainNode
    | BanNode
    | UnbanNode
    | ForgetNode
    | TrustNode
    | Exercised
    | PipelineSuspected
    | PlanFound
    | NodeAccused
)


# --- commands -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Send(Caused):
    connection: ConnectionId
    message: AnyMessage


@dataclass(frozen=True, slots=True)
class Refuse(Caused):
    """Say why (`Refused`), then close. `code` is that of an error in `muster.errors`."""

    connection: ConnectionId
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Close(Caused):
    connection: ConnectionId
    reason: str


@dataclass(frozen=True, slots=True)
class Route:
    """A pipeline that is ready: send requests of `epoch` to `first`, the node with its first stage."""

    epoch: int
    first: Address
    pipeline: Pipeline
    name: str = ""
    """Of the pipeline, the same in every epoch."""
    capacity: Capacity = UNKNOWN

    @property
    def node(self) -> NodeId:
        return self.first.node


@dataclass(frozen=True, slots=True)
class RouteChanged(Caused):
    """None: the pipeline does nothing now; keep requests until the next route."""

    pipeline: PipelineId
    route: Route | None


@dataclass(frozen=True, slots=True)
class NodeSeen:
    """What the store keeps of a node."""

    node: NodeId
    name: str
    region: str
    claim_bytes: int


@dataclass(frozen=True, slots=True)
class NodeForgotten:
    node: NodeId


@dataclass(frozen=True, slots=True)
class BanChanged:
    node: NodeId
    banned: bool


@dataclass(frozen=True, slots=True)
class TrustChanged:
    node: NodeId
    own: bool


@dataclass(frozen=True, slots=True)
class Placed:
    """A placement was decided. The last few may never be written, so a restarted head skips some epochs."""

    id: PipelineId
    epoch: int
    pipeline: Pipeline


@dataclass(frozen=True, slots=True)
class Dissolved:
    """From this epoch on there is no such pipeline."""

    id: PipelineId
    epoch: int


@dataclass(frozen=True, slots=True)
class Save(Caused):
    """Write it down: a restarted head wants to find it."""

    record: NodeSeen | NodeForgotten | BanChanged | TrustChanged | Placed | Dissolved


@dataclass(frozen=True, slots=True)
class Search(Caused):
    """Look for a better plan for this pool, aside and not for long, and answer with `PlanFound` whatever happens."""

    pipeline: PipelineId
    pool: Pool
    options: PlanOptions


@dataclass(frozen=True, slots=True)
class Exert(Caused):
    """Have a machine show what it claims, and answer with `Exercised` whatever happens."""

    connection: ConnectionId
    exercise: Exercise


@dataclass(frozen=True, slots=True)
class File(Caused):
    """Put what this node has signed on the shelf."""

    node: NodeId
    ring: ReceiptRing
    receipts: Receipts


Command = Send | Refuse | Close | RouteChanged | Save | Search | Exert | File
