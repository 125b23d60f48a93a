"""What a client's books are told, and what they want done. Knows nothing of who says it or does it."""

from dataclasses import dataclass

from muster.errors import MusterError
from muster.spec.capacity import UNKNOWN, Capacity
from muster.spec.request import Progress, Request
from muster.spec.story import Caused

# --- events ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Started:
    """A client asks."""

    request: Request


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Nobody waits for the answer any more."""

    request_id: str


@dataclass(frozen=True, slots=True)
class RouteUp:
    """A pipeline is ready."""

    epoch: int
    capacity: Capacity = UNKNOWN


@dataclass(frozen=True, slots=True)
class RouteLeft:
    """The pipeline of `epoch` makes way for another that is up: its requests move."""

    epoch: int


@dataclass(frozen=True, slots=True)
class RouteDown:
    """The pipeline of `epoch` is gone, and what it had of its requests with it."""

    epoch: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Progressed:
    """Tokens have come from the pipeline of `epoch`."""

    epoch: int
    progress: Progress


@dataclass(frozen=True, slots=True)
class RequestFailed:
    """The pipeline of `epoch` could not go on with the request."""

    epoch: int
    request_id: str
    error: MusterError
    retry: bool


@dataclass(frozen=True, slots=True)
class Stopping:
    """This process ends: what is under way is told so, and what comes is refused."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


Event = Started | Cancelled | RouteUp | RouteLeft | RouteDown | Progressed | RequestFailed | Stopping | Tick


# --- commands -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SubmitTo(Caused):
    """Hand the request to the pipeline of `epoch`."""

    epoch: int
    request: Request


@dataclass(frozen=True, slots=True)
class CancelAt(Caused):
    """Tell the pipeline of `epoch` to forget the request."""

    epoch: int
    request_id: str


@dataclass(frozen=True, slots=True)
class Deliver(Caused):
    """These tokens are new to the client."""

    progress: Progress


@dataclass(frozen=True, slots=True)
class End(Caused):
    """The request ends with this error."""

    request_id: str
    error: MusterError


@dataclass(frozen=True, slots=True)
class Suspect(Caused):
    """The pipeline of `epoch` accepted work and has been silent too long; have the broker look."""

    epoch: int


Command = SubmitTo | CancelAt | Deliver | End | Suspect
