"""The broker's decisions: an event comes in, commands go out. Pure: no clock, no socket, no randomness.

Puts the parts together and keeps no books of its own: who may join (`members/admission`), who is here
(`members/membership`), who has to show what it claims (`members/proving`), who holds which layers (`pipelines/`), whose
fault it was (`blame`). What the protocol forbids closes the door.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace

from muster.broker.blame import Blame
from muster.broker.events import (
    BanChanged,
    BanNode,
    Close,
    Command,
    ConnectionId,
    Disconnected,
    DrainNode,
    Event,
    Exercised,
    File,
    ForgetNode,
    Heard,
    NodeAccused,
    NodeForgotten,
    NodeJoined,
    NodeSeen,
    PipelineSuspected,
    PlanFound,
    PrivateAsked,
    Refuse,
    Remembered,
    Save,
    Send,
    Tick,
    TicketIssued,
    TrustChanged,
    TrustNode,
    UnbanNode,
)
from muster.broker.guests import Guests
from muster.broker.invariants import check_books
from muster.broker.members.admission import Admission
from muster.broker.members.join import check_heartbeat, check_measured, check_peer_measured, check_progress
from muster.broker.members.membership import LeaseOptions, Member, Membership
from muster.broker.members.proving import Proving
from muster.broker.members.trust import TrustOptions
from muster.broker.pipelines.codec_checks import check_codecs_checked
from muster.broker.pipelines.entrusted import whole_bytes
from muster.broker.pipelines.every import Pipelines
from muster.broker.pipelines.job import Job
from muster.broker.pipelines.slowness import Slowness
from muster.errors import Banned, MusterError, ProtocolViolation
from muster.spec.pool import NodeId
from muster.spec.story import Story
from muster.wire.messages.calibrate import CodecsChecked
from muster.wire.messages.every import AnyMessage
from muster.wire.messages.membership import Goodbye, Heartbeat, HeartbeatSeen, Measured, PeerMeasured, Welcome
from muster.wire.messages.placement import Loaded, LoadFailed, LoadProgress, Release, StageLost
from muster.wire.messages.receipts import Receipts


@dataclass(frozen=True, slots=True)
class BrokerOptions:
    leases: LeaseOptions = field(default_factory=LeaseOptions)
    max_members: int = 4096
    hang_s: float = 10.0
    """A step that computes for longer hangs, unless the forecast says that steps take so long here."""
    stuck_s: float = 5.0
    """A step that no machine passes on for longer is stuck, unless steps or links are so slow here."""
    region: str = ""
    """Where the head itself stands."""
    forget_after_s: float = 30 * 86_400.0
    """A machine that was away for longer is forgotten; 0 never."""
    trust: TrustOptions = field(default_factory=TrustOptions)


class BrokerState:
    def __init__(
        self,
        head: NodeId,
        jobs: Iterable[Job],
        options: BrokerOptions = BrokerOptions(),
        remembered: Remembered = Remembered(),
    ) -> None:
        self.head, self.options = head, options
        jobs = tuple(jobs)
        trust = replace(options.trust, own={*options.trust.own, *remembered.own})
        self.members = Membership(head, options.leases, trust)
        self.admission = Admission(self.members, options.max_members, remembered)
        self.pipelines = Pipelines(self.members, jobs, remembered.epoch, remembered.pipelines)
        self.guests = Guests(self.members, self.admission, self.pipelines, jobs)
        self.slowness = Slowness(self.members, lambda id, now_s: self.pipelines[id].forecasting(now_s))
        self.blame = Blame(self.members, self.pipelines, options.hang_s, options.stuck_s)
        self.proving = Proving(self.members, max((whole_bytes(job) for job in jobs), default=0))
        self.story = Story()
        for pipeline in remembered.pipelines.values():
            self.members.establish(pipeline.nodes(), now_s=0.0)  # they held all of it before

    def handle(self, event: Event, now_s: float) -> list[Command]:
        """Take in `event`; what to do, in order. `now_s` is a steady clock that never goes back."""
        commands = self.guests.told(self._answer(event, now_s) + self.pipelines.decide(now_s), now_s)
        entries = self.story.entries
        if entries and _is_routine(event, commands) and _is_routine(entries[-1].event, entries[-1].commands):
            entries.pop()  # of many in a row the last is enough, and leaves room for what matters
        return self.story.add(now_s, event, commands)

    def check(self, now_s: float) -> None:
        """Raise `AssertionError`, with what led to it, unless the books are in order."""
        with self.story.told():
            check_books(self.members, self.pipelines, self.admission.banned, now_s)
            self.admission.names.check()

    def _answer(self, event: Event, now_s: float) -> list[Command]:
        match event:
            case NodeJoined():
                return self._joined(event, now_s)
            case PrivateAsked():
                return self.guests.asked(event, now_s)
            case Heard(connection, message) if connection in self.guests:
                return self.guests.heard(connection, message, now_s)
            case Disconnected(connection) if connection in self.guests:
                return self.guests.gone(connection, now_s)
            case Heard(connection, message):
                return self._heard(connection, message, now_s)
            case Disconnected(connection):
                member = self.members.at(connection)
                return self._gone([member], now_s) if member else []
            case Tick(late_s):
                return self._tick(now_s, late_s)
            case TicketIssued(secret, expires_s):
                self.admission.ticket_issued(secret, expires_s)
                return []
            case DrainNode(node):
                if node in self.members.members:
                    self.members.keep_drained(node, now_s)
                return self._drain(node, now_s)
            case BanNode(node):
                return self._ban(node, now_s)
            case UnbanNode(node):
                self.admission.unban(node)
                return [Save(BanChanged(node, banned=False))]
            case ForgetNode(node):
                self.admission.forget(node)
                self.members.own_changed(node, own=False, now_s=now_s)
                return [Save(NodeForgotten(node))]
            case TrustNode(node, own):
                return self._trust(node, own, now_s)
            case Exercised():
                return self._exercised(event, now_s)
            case PipelineSuspected(epoch, unreachable):
                return self.blame.suspected(epoch, unreachable, now_s)
            case PlanFound(pipeline, plan):
                return self.pipelines.found(pipeline, plan, now_s)
            case NodeAccused(node, reason):
                return self.blame.accused(node, reason, now_s)

    # --- joining ------------------------------------------------------------------------------------------------------

    def _joined(self, event: NodeJoined, now_s: float) -> list[Command]:
        try:
            self.admission.check(event)
        except MusterError as error:
            return [Refuse(event.connection, error.code, str(error))]
        commands = self._drop_ghost(event.node, now_s)
        member = self.admission.admit(event, now_s)
        leases = self.options.leases
        welcome = Welcome(
            heartbeat_s=leases.heartbeat_s,
            lease_s=leases.lease_s,
            model=", ".join(
                job.model.shape.name for name, job in self.pipelines.jobs.items() if name not in self.guests.jobs
            ),
            region=self.options.region,
            name=member.name,
        )
        return [*commands, Save(seen(member)), Send(event.connection, welcome)]

    def _drop_ghost(self, node: NodeId, now_s: float) -> list[Command]:
        """A node that dials again has lost its old connection, whether or not we noticed, and all its stages."""
        ghost = self.members.members.get(node)
        if ghost is None:
            return []
        return [*self._gone([ghost], now_s), Close(ghost.connection, "this node has joined again")]

    # --- messages -----------------------------------------------------------------------------------------------------

    def _heard(self, connection: ConnectionId, message: AnyMessage, now_s: float) -> list[Command]:
        member = self.members.heard(connection, now_s)
        if member is None:
            return []  # a ghost, or one that was refused a moment ago
        try:
            return self._said(member, message, now_s)
        except MusterError as error:
            gone = self._gone([member], now_s)
            return [Refuse(connection, error.code, str(error)), *gone]

    def _said(self, member: Member, message: AnyMessage, now_s: float) -> list[Command]:
        match message:
            case Heartbeat():
                return self._heartbeat(member, message, now_s)
            case Measured():
                return self._measured(member, message, now_s)
            case PeerMeasured():
                return self._peer_measured(member, message)
            case LoadProgress(epoch=epoch, done_bytes=done, total_bytes=total):
                check_progress(message)
                return self.pipelines.progressed(epoch, member.id, done, total, now_s)
            case Loaded(epoch=epoch):
                return self.pipelines.loaded(epoch, member.id, now_s)
            case CodecsChecked():
                check_codecs_checked(message)
                return self.pipelines.codecs_checked(message, member.id, now_s)
            case Receipts():
                return self._signed(member, message)
            case LoadFailed():
                return self.blame.load_failed(member, message, now_s)
            case StageLost():
                return self.blame.stage_lost(member, message, now_s)
            case Goodbye(drain=drain):
                self.members.forget_drain(member.id, now_s)
                if not drain:
                    return [*self._gone([member], now_s), Close(member.connection, "goodbye")]
                member.wants_to_leave = True
                return self._drain(member.id, now_s)
        raise ProtocolViolation(
            f"A node does not send {type(message).__name__} on the control channel; update Muster on it."
        )

    def _signed(self, member: Member, message: Receipts) -> list[Command]:
        placement = self.pipelines.of_epoch(message.epoch, member.id)
        if placement is None:
            return []  # it has just ended
        return [File(member.id, placement.receipt_ring(self.head), message)]

    def _heartbeat(self, member: Member, beat: Heartbeat, now_s: float) -> list[Command]:
        check_heartbeat(beat)
        if self.members.beat(member, beat, now_s):
            self.pipelines.usable(now_s)
        commands: list[Command] = [Send(member.connection, HeartbeatSeen())]
        strange = [epoch for epoch in member.active if self.pipelines.of_epoch(epoch, member.id) is None]
        commands += [Send(member.connection, Release(epoch=epoch)) for epoch in strange]
        return commands + self.blame.forgotten(member, now_s)

    def _measured(self, member: Member, measured: Measured, now_s: float) -> list[Command]:
        check_measured(measured)
        self.members.measured(member, measured, self.pipelines.allocation.held_bytes(member.id))
        commands: list[Command] = [Save(seen(member))]
        commands += self.blame.overbooked(member, now_s)
        return commands + self._believed(member, now_s)

    def _exercised(self, event: Exercised, now_s: float) -> list[Command]:
        member = self.members.at(event.connection)
        if member is None or not self.proving.exercised(member, event.shown, self._has_work, now_s):
            return []
        return self._believed(member, now_s)

    def _believed(self, member: Member, now_s: float) -> list[Command]:
        """What is believed of the machine has changed."""
        if member.device is None:  # it calls itself another device: nothing is known of it
            return self.pipelines.lost([member.id], now_s) + self.proving.due(self._has_work, now_s)
        self.pipelines.usable(now_s)
        return []

    def _has_work(self, node: NodeId) -> bool:
        return any(node in placement.nodes for placement in self.pipelines.live())

    def _trust(self, node: NodeId, own: bool, now_s: float) -> list[Command]:
        self.members.own_changed(node, own, now_s)
        member = self.members.members.get(node)
        saved = Save(TrustChanged(node, own))
        return [saved, *(self._believed(member, now_s) if member is not None and member.claimed is not None else [])]

    def _peer_measured(self, member: Member, measured: PeerMeasured) -> list[Command]:
        check_peer_measured(measured)
        if measured.peer == self.head or measured.peer in self.members.members:
            seconds, bandwidth = measured.round_trip_s, measured.bandwidth_bytes_per_s
            if self.members.measured_link(member, measured.peer, seconds, bandwidth):
                self.pipelines.look_again()
        return []

    # --- leaving ------------------------------------------------------------------------------------------------------

    def _tick(self, now_s: float, late_s: float) -> list[Command]:
        expired = self.members.expired(now_s, late_s)
        commands = self._gone(expired, now_s)
        commands += [Close(member.connection, "the lease ran out") for member in expired]
        if self.slowness.look(self.pipelines.serving(), now_s):
            self.pipelines.look_again()
        commands += self.blame.stalled(now_s) + self.blame.stuck(now_s)
        self.blame.credit(now_s)
        return commands + self.proving.due(self._has_work, now_s)

    def _gone(self, members: Collection[Member], now_s: float) -> list[Command]:
        """Take these members off the list; what they held is lost."""
        for member in members:
            self.blame.vanished(member, now_s)
            self.members.remove(member.id, now_s)
        saves: list[Command] = [Save(seen(member)) for member in members]  # so that it is known since when
        return saves + self.pipelines.lost([member.id for member in members], now_s)

    def _drain(self, node: NodeId, now_s: float) -> list[Command]:
        if not self.members.drain(node):
            return []
        loading = [pending for pending in self.pipelines.pending() if node in pending.nodes]
        return [command for pending in loading for command in self.pipelines.end(pending, now_s)]

    def _ban(self, node: NodeId, now_s: float) -> list[Command]:
        self.admission.ban(node)
        commands: list[Command] = [Save(BanChanged(node, banned=True))]
        member = self.members.members.get(node)
        if member is not None:
            refusal = Banned("This node was banned from the pool; ask whoever runs the pool why.")
            commands.append(Refuse(member.connection, refusal.code, str(refusal)))
            commands += self._gone([member], now_s)
        return commands


def seen(member: Member) -> NodeSeen:
    return NodeSeen(member.id, member.name, member.region, member.claim_bytes)


def _is_routine(event: object, commands: Sequence[object]) -> bool:
    """Whether nothing happened but that time passed, or that somebody is still here."""
    if not isinstance(event, Tick) and not (
        isinstance(event, Heard) and isinstance(event.message, Heartbeat | Receipts)
    ):
        return False
    return all(
        isinstance(command, File) or (isinstance(command, Send) and isinstance(command.message, HeartbeatSeen))
        for command in commands
    )
