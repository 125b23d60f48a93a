"""Whom one stage of a ring hears and tells, and how many steps may wait at it. Knows nothing of what steps hold."""

from dataclasses import dataclass, field

from muster.errors import ProtocolViolation
from muster.node.runners.base import Send
from muster.node.runners.serve.resend import Unclosed
from muster.spec.pool import NodeId
from muster.wire.frame import CHANNEL_LIMITS

MAX_HIDDEN_BYTES = CHANNEL_LIMITS["data"].payload_bytes


@dataclass(frozen=True, slots=True)
class RingPlace:
    epoch: int
    head: NodeId
    """Only it may submit and cancel."""
    previous: NodeId
    """The stage before; of the first it is the last. Only it may hand over steps, or what came of them."""
    send: Send | None
    """To the stage behind; None where there is only one."""
    first: NodeId
    """Only it may send `Admissions`, and only to the last stage."""
    is_last: bool
    send_to_last: Send | None
    """From the first stage past those between; None where there are none between."""
    max_steps: int
    """In flight at once in the whole ring."""
    kept: Unclosed = field(default_factory=Unclosed)
    """What went to the stage behind in rounds that have not closed."""
    kept_apart: Unclosed = field(default_factory=Unclosed)
    """The same to the last stage."""


class WaitingSteps:
    """Counts them. Without a limit a neighbour could fill this machine's memory."""

    def __init__(self, max_steps: int) -> None:
        """More of them waiting here than are in flight come from a peer that breaks the rules."""
        self._max_steps = max_steps
        self._count = 0

    def add(self, kind: str) -> None:
        """One more waits. Raises `ProtocolViolation`."""
        if self._count >= self._max_steps:
            raise ProtocolViolation(f"More than {self._max_steps} {kind} wait here; the neighbour runs changed code.")
        self._count += 1

    def take(self) -> None:
        self._count -= 1
