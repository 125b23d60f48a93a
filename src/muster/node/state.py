"""What a node should do next, given what it heard. Pure: no clock, no socket, no tensors.

A node may hold two stages for a while: the one that serves and the one of the next placement, which loads beside it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from muster.errors import LimitReached, MusterError, PoolUnavailable, from_code
from muster.node.accept import check_assign
from muster.node.events import (
    Command,
    DrainAsked,
    Drop,
    Event,
    HeadLost,
    Heard,
    Load,
    NeighbourLost,
    Pass,
    Quit,
    Rejoin,
    Say,
    StageFailed,
    StageReady,
    Tick,
    Vitals,
)
from muster.spec.pool import NodeId
from muster.spec.story import Story
from muster.wire.messages.calibrate import CheckCodecs
from muster.wire.messages.every import AnyMessage
from muster.wire.messages.membership import Goodbye, Heartbeat, Refused, Welcome
from muster.wire.messages.placement import Assign, Loaded, LoadFailed, Release, StageLost

MAX_STAGES = 4
"""Held or loading at once; an honest head gives two at most."""
FIRST_REJOIN_S = 0.5
HEAD_PATIENCE = 2
"""Leases: a head that is only busy has not gone, and who left it would cost it a placement."""
MAX_REJOIN_S = 15.0


@dataclass(slots=True)
class NodeState:
    node: NodeId
    check_work: Callable[[Assign], None]
    """Raises `MusterError` where this node cannot do the kind of work that is assigned."""
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
    story: Story = field(default_factory=Story)

    def handle(self, event: Event, now: float) -> list[Command]:
        """Take in `event`; what to do, in order. `now` is a steady clock, in seconds."""
        commands = self._decide(event, now)
        if isinstance(event, Tick) and not commands:
            return commands  # too many of them to be told
        return self.story.add(now, event, commands)

    def check(self) -> None:
        """Raise `AssertionError` unless the books are in order."""
        with self.story.told():
            assert len(self.stages) <= MAX_STAGES, f"{len(self.stages)} stages are held"
            assert all(epoch > 0 for epoch in self.stages), f"epochs {sorted(self.stages)} are held"
            assert self.joined or self.said_at <= self.heard_at, "a heartbeat went out to nobody"
            assert not self.joined or self.rejoins == 0, "a node that has joined still counts its tries"

    def _decide(self, event: Event, now: float) -> list[Command]:
        match event:
            case Heard(message):
                self.heard_at = now
                return self._heard(message)
            case HeadLost():
                return self._head_lost(now)
            case StageReady(epoch):
                return self._ready(epoch)
            case StageFailed(epoch, error):
                return self._failed(epoch, error)
            case NeighbourLost(epoch, peer, reason):
                # Only the broker knows whether to wait or to repair.
                return [Say(StageLost(epoch=epoch, peer=peer, reason=reason))] if epoch in self.stages else []
            case DrainAsked(patience_s):
                return self._drain(now + patience_s)
            case Tick(vitals):
                return self._tick(now, vitals)

    def _heard(self, message: AnyMessage) -> list[Command]:
        match message:
            case Welcome():
                self.joined, self.rejoins = True, 0
                self.heartbeat_s, self.lease_s = message.heartbeat_s, message.lease_s
                # Stages of an earlier membership are the head's to give again: it may have placed them elsewhere.
                # One that drains has nothing left to wait for, then.
                leave: list[Command] = [Say(Goodbye()), Quit(None)] if self.draining else []
                return [*self._drop_all(), *leave]
            case Refused():
                self.refused = True
                return [Quit(from_code(message.code, message.reason))]
            case Assign():
                return self._assign(message)
            case Release():
                return self._release(message.epoch)
            case CheckCodecs(epoch=epoch):
                return [Pass(message)] if self.stages.get(epoch) else []
        return []

    def _assign(self, assign: Assign) -> list[Command]:
        try:
            check_assign(assign, self.node)
            self.check_work(assign)
            if assign.epoch in self.stages:
                return []
            if len(self.stages) >= MAX_STAGES:
                raise LimitReached(f"This node holds {len(self.stages)} stages already; release some first.")
        except MusterError as error:
            return [Say(LoadFailed(epoch=assign.epoch, code=error.code, reason=str(error)))]
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

    def _ready(self, epoch: int) -> list[Command]:
        if epoch not in self.stages:  # released while it loaded
            return [Drop(epoch)]
        self.stages[epoch] = True
        return [Say(Loaded(epoch=epoch))]

    def _failed(self, epoch: int, error: MusterError) -> list[Command]:
        if self.stages.pop(epoch, None) is None:
            return []
        return [Say(LoadFailed(epoch=epoch, code=error.code, reason=str(error))), Drop(epoch)]

    def _head_lost(self, now: float) -> list[Command]:
        """Stages go on: the head may only be restarting."""
        if self.refused:
            return []
        if self.draining:  # nobody is left who could move what is here
            return [Quit(None)]
        self.joined = False
        after_s = min(MAX_REJOIN_S, FIRST_REJOIN_S * 2**self.rejoins)
        self.rejoins += 1
        self.heard_at = now
        return [Rejoin(after_s)]

    def _drain(self, leave_by: float) -> list[Command]:
        self.draining, self.leave_by = True, leave_by
        if not self.joined or not self.stages:
            return [Say(Goodbye()), Quit(None)] if self.joined else [Quit(None)]
        return [Say(Goodbye(drain=True))]

    def _tick(self, now: float, vitals: Vitals) -> list[Command]:
        if self.draining and now >= self.leave_by:
            reason = (
                "Left although no other machine had taken over the layers that were here; let another machine join "
                "before this one leaves."
            )
            return [Say(Goodbye()), Quit(PoolUnavailable(reason))]
        if not self.joined:
            return []
        if now - self.heard_at > HEAD_PATIENCE * self.lease_s:
            return self._head_lost(now)
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
