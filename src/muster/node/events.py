"""What a node is told, and what it wants done. Knows nothing of who says it or does it."""

from dataclasses import dataclass

from muster.errors import MusterError
from muster.spec.pool import NodeId
from muster.spec.story import Caused
from muster.wire.messages.calibrate import CheckCodecs
from muster.wire.messages.every import AnyMessage
from muster.wire.messages.membership import StageVitals
from muster.wire.messages.placement import Assign

# --- events ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Heard:
    """A message from the head on the control channel."""

    message: AnyMessage


@dataclass(frozen=True, slots=True)
class HeadLost:
    """The connection to the head is gone, or could not be made."""


@dataclass(frozen=True, slots=True)
class StageReady:
    """What `Load` wanted is done."""

    epoch: int


@dataclass(frozen=True, slots=True)
class StageFailed:
    """What `Load` wanted cannot be done."""

    epoch: int
    error: MusterError


@dataclass(frozen=True, slots=True)
class NeighbourLost:
    """The link to the next or previous stage is down, or that stage broke the rules."""

    epoch: int
    peer: NodeId
    """This node, where its own stage broke."""
    reason: str


@dataclass(frozen=True, slots=True)
class DrainAsked:
    """The owner wants the machine back: leave when what runs here has moved, at the latest after `patience_s`."""

    patience_s: float


@dataclass(frozen=True, slots=True)
class Vitals:
    """How the machine is, as its heartbeats tell; the fields are those of `Heartbeat`."""

    free_memory_bytes: int
    stages: tuple[StageVitals, ...] = ()
    steps: int = 0
    computing_s: float = 0.0
    busy_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""

    vitals: Vitals


Event = Heard | HeadLost | StageReady | StageFailed | NeighbourLost | DrainAsked | Tick


# --- commands -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Say(Caused):
    """Send this to the head on the control channel."""

    message: AnyMessage


@dataclass(frozen=True, slots=True)
class Load(Caused):
    """Get a stage ready for its work, and report with `StageReady` or `StageFailed`."""

    assign: Assign


@dataclass(frozen=True, slots=True)
class Drop(Caused):
    """Stop the stage of this epoch and free its memory."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Rejoin(Caused):
    """The head is silent or gone; dial it again after `after_s`."""

    after_s: float


@dataclass(frozen=True, slots=True)
class Quit(Caused):
    """Stop for good."""

    error: MusterError | None


@dataclass(frozen=True, slots=True)
class Pass(Caused):
    """Hand what the head says to the stage that it concerns, which answers on the control channel."""

    message: CheckCodecs


Command = Say | Load | Drop | Pass | Rejoin | Quit
