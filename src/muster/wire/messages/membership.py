"""Control channel: a node joins, says what it is and how it does, and leaves."""

import msgspec

from muster.spec.guesses import GuessCounts
from muster.spec.pool import Device
from muster.wire.messages.base import Address, Message


class Hello(Message, frozen=True, tag="hello"):
    """The first message on a control channel. `proof` is the join secret's keyed BLAKE3 of (node id, head id)."""

    protocol: int
    version: str
    name: str
    region: str
    proof: bytes
    address: Address
    island: str = ""
    """Machines that name the same one may hold a stage together: they are on one fast network, or one machine."""
    owner: str = ""
    """Whose it is: in a private session machines of one owner count as one."""


class Welcome(Message, frozen=True, tag="welcome"):
    """You are in. Heartbeat every `heartbeat_s`; you count as lost after `lease_s` of silence."""

    heartbeat_s: float
    lease_s: float
    model: str
    region: str = ""
    """The head's own."""
    name: str = ""
    """What the pool calls the node: another may have the name that it asked for."""


class Refused(Message, frozen=True, tag="refused"):
    """The door stays shut; `reason` is one sentence with the remedy, `code` an error code of `muster.errors`."""

    code: str
    reason: str


class Measured(Message, frozen=True, tag="measured"):
    """What the node found when it measured itself. The broker treats it as a claim, not as truth."""

    device: Device
    free_memory_bytes: int


class PeerMeasured(Message, frozen=True, tag="peer_measured"):
    """Round trip and bandwidth from the sender to `peer`."""

    peer: str
    round_trip_s: float
    bandwidth_bytes_per_s: float


class StageVitals(msgspec.Struct, frozen=True, array_like=True):
    """How a stage does that is loaded here."""

    epoch: int
    active_requests: int = 0
    received: int = 0
    """Steps that came from the stage before; at the first stage, steps that came back."""
    sent: int = 0
    """Steps that were passed to the stage behind."""
    guesses: GuessCounts = GuessCounts()
    """At the first stage of a ring."""
    in_flight: int = 0
    """Steps that the first stage of a ring keeps in flight."""


class Heartbeat(Message, frozen=True, tag="heartbeat"):
    """Node to broker."""

    free_memory_bytes: int
    stages: tuple[StageVitals, ...] = ()
    """That are loaded."""
    steps: int = 0
    """Computed since the node started. A heartbeat says that the node lives; this, that it works."""
    computing_s: float = 0.0
    """How long the step at hand has been computing; 0 between steps."""
    busy_s: float = 0.0
    """Spent computing since the node started, the step at hand included."""


class HeartbeatSeen(Message, frozen=True, tag="heartbeat_seen"):
    """Broker to node, so that a node notices a head that is gone."""


class Goodbye(Message, frozen=True, tag="goodbye"):
    """The node wants to leave: `drain` first (finish what runs), or at once."""

    drain: bool = False
