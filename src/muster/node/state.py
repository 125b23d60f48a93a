"""What a node should do next, given what it heard. Pure: no clock, no socket, no tensors.

A node may hold two stages for a while: the one that serves and the one of the next placement, which loads beside it.
"""

from dataclasses import dataclass, field

from muster.errors import LimitReached, MusterError, PoolUnavailable, ProtocolViolation, from_code
from muster.node.accept import check_assign
from muster.wire.messages.every import AnyMessage
from muster.wire.messages.membership import Goodbye, Heartbeat, HeartbeatSeen, Refused, StageVitals, Welcome
from muster.wire.messages.placement import Assign, Loaded, LoadFailed, Release, StageLost


@dataclass(frozen=True, slots=True)
class Say:
    """Command: send this to the head on the control channel."""

    message: AnyMessage


@dataclass(frozen=True, slots=True)
class Load:
    """Command: fetch the weights, build the stage, reserve its pages, and report."""

    assign: Assign


@dataclass(frozen=True, slots=True)
class Drop:
    """Command: stop the stage of this epoch and free its memory."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Rejoin:
    """Command: the head is silent or gone; dial it again after `after_s`."""

    after_s: float


@dataclass(frozen=True, slots=True)
class Quit:
    """Command: stop for good."""

    error: MusterError | None


Command = Say | Load | Drop | Rejoin | Quit


@dataclass(frozen=True, slots=True)
class Vitals:
    """How the machine is, as its heartbeats tell; the fields are those of `Heartbeat`."""

    free_memory_bytes: int
    stages: tuple[StageVitals, ...] = ()
    steps: int = 0
    computing_s: float = 0.0
    busy_s: float = 0.0


MOST_STAGES = 4
"""Held or loading at once; an honest head gives two at most."""
REJOIN_FIRST_S = 0.5
REJOIN_LONGEST_S = 15.0


@dataclass(slots=True)
class NodeState:
    node: str
    stages: dict[int, bool] = field(default_factory=dict)
    """epoch -> loaded?"""
    heartbeat_s: float = 1.0
    lease_s: float = 3.0
    joined: bool = False
    heard_at: float = 0.0
    said_at: float = 0.0
    rejoins: int = 0
    refused: bool = False
    """The head wants us no more and is about to hang up."""
    draining: bool = False
    leave_by: float = 0.0

    def heard(self, message: AnyMessage, now: float) -> list[Command]:
        """A message from the head."""
        self.heard_at = now
        match message:
            case Welcome():
                self.joined, self.rejoins = True, 0
                self.heartbeat_s, self.lease_s = message.heartbeat_s, message.lease_s
                # Stages of an earlier membership are the head's to give again: it may have placed them elsewhere.
                return self._drop_all()
            case Refused():
                self.refused = True
                return [Quit(from_code(message.code, message.reason))]
            case Assign():
                return self._assign(message)
            case Release():
                return self._release(message.epoch)
            case HeartbeatSeen():
                return []
            case _:
                return []

    def _assign(self, assign: Assign) -> list[Command]:
        try:
            check_assign(assign, self.node)
        except ProtocolViolation as error:
            return [Say(LoadFailed(epoch=assign.epoch, code=error.code, reason=str(error)))]
        if assign.epoch in self.stages:
            return []
        if len(self.stages) >= MOST_STAGES:
            reason = f"This node holds {len(self.stages)} stages already; release some first."
            return [Say(LoadFailed(epoch=assign.epoch, code=LimitReached.code, reason=reason))]
        self.stages[assign.epoch] = False
        return [Load(assign)]

    def _release(self, epoch: int) -> list[Command]:
        if epoch not in self.stages:
            return []
        del self.stages[epoch]
        commands: list[Command] = [Drop(epoch)]
        if self.draining and not self.stages:
            commands.append(Quit(None))
        return commands

    def loaded(self, epoch: int) -> list[Command]:
        if epoch not in self.stages:  # released while it loaded
            return [Drop(epoch)]
        self.stages[epoch] = True
        return [Say(Loaded(epoch=epoch))]

    def load_failed(self, epoch: int, error: MusterError) -> list[Command]:
        if self.stages.pop(epoch, None) is None:
            return []
        return [Say(LoadFailed(epoch=epoch, code=error.code, reason=str(error))), Drop(epoch)]

    def neighbour_lost(self, epoch: int, peer: str, reason: str) -> list[Command]:
        """The link to the next or previous stage is down: only the broker knows whether to wait or to repair."""
        if epoch not in self.stages:
            return []
        return [Say(StageLost(epoch=epoch, peer=peer, reason=reason))]

    def head_lost(self, now: float) -> list[Command]:
        """The connection to the head is gone. Stages go on: the head may only be restarting."""
        if self.refused:
            return []
        if self.draining and not self.stages:
            return [Quit(None)]
        self.joined = False
        after_s = min(REJOIN_LONGEST_S, REJOIN_FIRST_S * 2**self.rejoins)
        self.rejoins += 1
        self.heard_at = now
        return [Rejoin(after_s)]

    def drain(self, now: float, patience_s: float) -> list[Command]:
        """The owner wants the machine back: leave when what runs here has moved, at the latest after `patience_s`."""
        self.draining, self.leave_by = True, now + patience_s
        if not self.joined or not self.stages:
            return [Say(Goodbye()), Quit(None)] if self.joined else [Quit(None)]
        return [Say(Goodbye(drain=True))]

    def tick(self, now: float, vitals: Vitals) -> list[Command]:
        if self.draining and now >= self.leave_by:
            reason = "Left before the drain was over; raise --drain-timeout to let requests move first."
            return [Say(Goodbye()), Quit(PoolUnavailable(reason))]
        if not self.joined:
            return []
        if now - self.heard_at > self.lease_s:
            return self.head_lost(now)
        if now - self.said_at < self.heartbeat_s:
            return []
        self.said_at = now
        beat = Heartbeat(
            free_memory_bytes=vitals.free_memory_bytes,
            stages=tuple(stage for stage in vitals.stages if self.stages.get(stage.epoch)),
            steps=vitals.steps,
            computing_s=vitals.computing_s,
            busy_s=vitals.busy_s,
        )
        return [Say(beat)]

    def _drop_all(self) -> list[Command]:
        commands: list[Command] = [Drop(epoch) for epoch in self.stages]
        self.stages.clear()
        return commands
