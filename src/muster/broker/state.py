"""The broker's decisions: an event comes in, commands go out. Pure: no clock, no socket, no randomness.

Everything a node says is a claim. What it cannot make good costs it standing: a false claim of memory is lowered to
what it has held, repeated failures put it in quarantine, and what the protocol forbids closes the door.
"""

from collections.abc import Collection
from dataclasses import dataclass, field

from muster.broker.events import (
    BanChanged,
    BanNode,
    Close,
    Command,
    ConnectionId,
    Disconnected,
    DrainNode,
    Event,
    Heard,
    NodeAccused,
    NodeJoined,
    NodeSeen,
    PipelineSuspected,
    PlanFound,
    Refuse,
    Route,
    Save,
    Send,
    Tick,
    TicketIssued,
    UnbanNode,
)
from muster.broker.invariants import check_books
from muster.broker.members.join import (
    check_heartbeat,
    check_hello,
    check_measured,
    check_not_banned,
    check_peer_measured,
    check_progress,
)
from muster.broker.members.membership import LeaseOptions, Member, Membership
from muster.broker.pipelines.placement import Placement, Served
from muster.broker.pipelines.placing import Placing, PlacingOptions
from muster.broker.pipelines.slowness import Slowness
from muster.errors import LimitReached, LinkDown, MusterError, NotAllowed, ProtocolViolation, from_code
from muster.plan.quick.planner import Planner, place
from muster.spec.plan import Pipeline
from muster.spec.pool import NodeId
from muster.wire.messages.every import AnyMessage
from muster.wire.messages.membership import Goodbye, Heartbeat, HeartbeatSeen, Measured, PeerMeasured, Welcome
from muster.wire.messages.placement import Loaded, LoadFailed, LoadProgress, Release, StageLost

SHORT_OF_MEMORY = frozenset({"model_does_not_fit", "out_of_memory", "machine_trouble"})
"""Codes of `LoadFailed` that mean that the claim of memory was false."""
HANG_STEPS = 20
"""A step that takes so many times its forecast does not end any more."""


@dataclass(frozen=True, slots=True)
class BrokerOptions:
    leases: LeaseOptions = field(default_factory=LeaseOptions)
    placing: PlacingOptions = field(default_factory=PlacingOptions)
    most_members: int = 4096
    hang_s: float = 10.0
    """A step that computes for longer hangs, unless the forecast says that steps take so long here."""
    region: str = ""
    """Where the head itself stands."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """What a restarted head knows of its pool."""

    epoch: int = 0
    pipeline: Pipeline | None = None
    known: Collection[NodeId] = ()
    banned: Collection[NodeId] = ()
    secrets: Collection[tuple[bytes, float]] = ()
    """(join secret, expiry in seconds since the Unix epoch)"""


class BrokerState:
    def __init__(
        self,
        head: NodeId,
        served: Served,
        planner: Planner = place,
        options: BrokerOptions = BrokerOptions(),
        remembered: Remembered = Remembered(),
    ) -> None:
        self.head, self.served, self.options = head, served, options
        self.members = Membership(head, options.leases)
        self.placing = Placing(self.members, served, planner, options.placing, remembered.epoch)
        self.placing.keep = remembered.pipeline
        self.slowness = Slowness(self.members, lambda: self.placing.served.shape, self.placing.forecasting)
        self.known = set(remembered.known)
        self.banned = set(remembered.banned)
        self.secrets = list(remembered.secrets)
        self._ticked_s: float | None = None

    @property
    def route(self) -> Route | None:
        serving = self.placing.serving
        if serving is None:
            return None
        return Route(serving.epoch, self.members.members[serving.nodes[0]].address, serving.pipeline)

    def handle(self, event: Event, now_s: float) -> list[Command]:
        """Take in `event`; what to do, in order. `now_s` is a steady clock that never goes back."""
        match event:
            case NodeJoined():
                commands = self._joined(event, now_s)
            case Heard(connection, message):
                commands = self._heard(connection, message, now_s)
            case Disconnected(connection):
                member = self.members.at(connection)
                commands = self._gone([member], now_s) if member else []
            case Tick():
                commands = self._tick(now_s)
            case TicketIssued(secret, expires_s):
                self.secrets.append((secret, expires_s))
                commands = []
            case DrainNode(node):
                commands = self._drain(node, now_s)
            case BanNode(node):
                commands = self._ban(node, now_s)
            case PipelineSuspected(epoch, unreachable):
                serving = self.placing.serving
                known = serving is not None and serving.epoch == epoch
                commands = self._suspected(serving, unreachable, now_s) if serving is not None and known else []
            case PlanFound(plan):
                commands = self.placing.found(plan, now_s)
            case NodeAccused(node, reason):
                commands = self._accused(node, reason, now_s)
            case UnbanNode(node):
                self.banned.discard(node)
                commands = [Save(BanChanged(node, banned=False))]
        return commands + self.placing.decide(now_s)

    def check(self, now_s: float) -> None:
        """Raise `AssertionError` unless the books are in order."""
        check_books(self.members, self.placing, self.banned, self._ticked_s, now_s)

    # --- joining ------------------------------------------------------------------------------------------------------

    def _joined(self, event: NodeJoined, now_s: float) -> list[Command]:
        node, hello = event.node, event.hello
        try:
            check_not_banned(node, self.banned)
            check_hello(node, hello, self.head, self.secrets, node in self.known, event.wall_s)
            if len(self.members.members) >= self.options.most_members and node not in self.members.members:
                raise LimitReached("This pool is full; ask whoever runs it, or try again later.")
        except MusterError as error:
            return [Refuse(event.connection, error.code, str(error))]
        commands = self._drop_ghost(node, now_s)
        member = Member(node, event.connection, hello.name, hello.region, hello.address, heard_s=now_s)
        self.members.add(member)
        self.known.add(node)
        leases = self.options.leases
        welcome = Welcome(
            heartbeat_s=leases.heartbeat_s,
            lease_s=leases.lease_s,
            model=self.served.shape.name,
            region=self.options.region,
        )
        seen = NodeSeen(node, hello.name, hello.region, claim_bytes=0)
        return [*commands, Save(seen), Send(event.connection, welcome)]

    def _drop_ghost(self, node: NodeId, now_s: float) -> list[Command]:
        """A node that dials again has lost its old connection, whether or not we noticed, and all its stages."""
        ghost = self.members.members.get(node)
        if ghost is None:
            return []
        return [*self._gone([ghost], now_s), Close(ghost.connection, "this node has joined again")]

    # --- messages -----------------------------------------------------------------------------------------------------

    def _heard(self, connection: ConnectionId, message: AnyMessage, now_s: float) -> list[Command]:
        member = self.members.at(connection)
        if member is None:
            return []  # a ghost, or one that was refused a moment ago
        member.heard_s = now_s
        try:
            return self._answer(member, message, now_s)
        except MusterError as error:
            gone = self._gone([member], now_s)
            return [Refuse(connection, error.code, str(error)), *gone]

    def _answer(self, member: Member, message: AnyMessage, now_s: float) -> list[Command]:
        match message:
            case Heartbeat():
                return self._heartbeat(member, message, now_s)
            case Measured():
                return self._measured(member, message, now_s)
            case PeerMeasured():
                return self._peer_measured(member, message)
            case LoadProgress(epoch=epoch, done_bytes=done, total_bytes=total):
                check_progress(message)
                placement = self.placing.of_epoch(epoch, member.id)
                return self.placing.progressed(placement, member.id, done, total, now_s) if placement else []
            case Loaded(epoch=epoch):
                placement = self.placing.of_epoch(epoch, member.id)
                return self.placing.loaded(placement, member.id, now_s) if placement else []
            case LoadFailed():
                return self._load_failed(member, message, now_s)
            case StageLost():
                return self._stage_lost(member, message, now_s)
            case Goodbye(drain=True):
                return self._drain(member.id, now_s)
            case Goodbye():
                return [*self._gone([member], now_s), Close(member.connection, "goodbye")]
        raise ProtocolViolation(
            f"A node does not send {type(message).__name__} on the control channel; update Muster on it."
        )

    def _heartbeat(self, member: Member, beat: Heartbeat, now_s: float) -> list[Command]:
        check_heartbeat(beat)
        member.free_memory_bytes = beat.free_memory_bytes
        member.active = {stage.epoch: stage.active_requests for stage in beat.stages}
        if beat.steps > member.steps:
            member.stepped_s = now_s
        if member.hangs and beat.computing_s < member.computing_s:
            member.hangs = False
            self.placing.usable(now_s)
        member.steps, member.computing_s = beat.steps, beat.computing_s
        member.busy_s = beat.busy_s
        commands: list[Command] = [Send(member.connection, HeartbeatSeen())]
        strange = [epoch for epoch in member.active if self.placing.of_epoch(epoch, member.id) is None]
        commands += [Send(member.connection, Release(epoch=epoch)) for epoch in strange]
        serving = self.placing.serving
        if serving is not None and serving.holds(member.id) and serving.epoch not in member.active:
            # It said `Loaded` before this heartbeat on the same channel, so it has lost its stage since.
            self.members.failed(member.id, now_s)
            commands += self.placing.lost([member.id], now_s)
        return commands

    def _measured(self, member: Member, measured: Measured, now_s: float) -> list[Command]:
        check_measured(measured)
        member.device, member.free_memory_bytes = measured.device, measured.free_memory_bytes
        held = self.placing.held_bytes(member.id)
        member.claim_bytes = min(measured.device.memory_bytes, measured.free_memory_bytes + held)
        commands: list[Command] = [Save(NodeSeen(member.id, member.name, member.region, member.claim_bytes))]
        if held > self.members.cap(member, now_s):
            commands += self.placing.lost([member.id], now_s)
        self.placing.usable(now_s)
        return commands

    def _peer_measured(self, member: Member, measured: PeerMeasured) -> list[Command]:
        check_peer_measured(measured)
        if measured.peer == self.head or measured.peer in self.members.members:
            news = self.members.measured_link(
                member, measured.peer, measured.round_trip_s, measured.bandwidth_bytes_per_s
            )
            self.placing.pool_changed = self.placing.pool_changed or news
        return []

    def _load_failed(self, member: Member, failed: LoadFailed, now_s: float) -> list[Command]:
        placement = self.placing.of_epoch(failed.epoch, member.id)
        if placement is None:
            return []
        error = from_code(failed.code, failed.reason)
        if isinstance(error, LinkDown):
            order = placement.nodes
            following = order[(order.index(member.id) + 1) % len(order)]
            return self._blame_link(placement, member.id, following, now_s)
        if failed.code in SHORT_OF_MEMORY:
            self._believe_less(member.id, now_s)
        else:
            self.members.failed(member.id, now_s)
        self.placing.failure = f"Node {member.name} could not load its layers: {failed.reason[:300]}"
        self.placing.trouble = self.placing.failure
        return self._end(placement, now_s)

    def _believe_less(self, node: NodeId, now_s: float) -> None:
        self.members.lied(node, self.placing.held_bytes(node), self.placing.loaded_bytes(node), now_s)

    def _stage_lost(self, member: Member, lost: StageLost, now_s: float) -> list[Command]:
        placement = self.placing.of_epoch(lost.epoch, member.id)
        if placement is None:
            return []
        if lost.peer == member.id:
            self.members.failed(member.id, now_s)
            return self._end(placement, now_s)
        if lost.peer not in placement.neighbours(member.id):
            return []
        return self._blame_link(placement, member.id, lost.peer, now_s)

    def _blame_link(self, placement: Placement, reporter: NodeId, peer: NodeId, now_s: float) -> list[Command]:
        """Either `peer` is dead, and its lease will tell, or the link is. Go on without it until that is clear."""
        if placement.deferred:
            return self.placing.give_up_waiting(placement, now_s)
        if reporter != peer:
            self.members.report_broken(reporter, peer, now_s)
            self.members.rest(peer, self.options.leases.lease_s, now_s)
            if self.members.complains_about(reporter, now_s) >= self.options.leases.strikes:
                self.members.rest(reporter, self.options.leases.quarantine_s, now_s)
        return self._end(placement, now_s)

    def _suspected(self, serving: Placement, unreachable: bool, now_s: float) -> list[Command]:
        """A client waits in vain. Some machine hangs, or a step was lost, or it is all just slow: then let it work."""
        if unreachable:
            return self.placing.end(serving, now_s)
        patience_s = max(self.options.hang_s, HANG_STEPS * serving.longest_step_seconds)
        members = [self.members.members[node] for node in serving.nodes]
        still = all(now_s - member.stepped_s >= patience_s for member in members)
        # Where nobody has finished a step for so long, the heartbeats of who hangs may lag behind: half of it will do.
        hanging = [member for member in members if member.computing_s >= (patience_s / 2 if still else patience_s)]
        for member in hanging:
            member.hangs = True
            self.members.failed(member.id, now_s)
        if not hanging and not still:
            return []
        return self.placing.end(serving, now_s)

    def _accused(self, node: NodeId, reason: str, now_s: float) -> list[Command]:
        """Others take over while it rests; the more often this happens, the longer."""
        member = self.members.members.get(node)
        if member is None:
            return []
        self.members.failed(node, now_s)
        self.placing.failure = f"Node {member.name} was left out: {reason[:300]}"
        return self.placing.lost([node], now_s)

    def _end(self, placement: Placement, now_s: float) -> list[Command]:
        return self.placing.end(placement, now_s) if placement in self.placing.live() else []

    # --- leaving ------------------------------------------------------------------------------------------------------

    def _tick(self, now_s: float) -> list[Command]:
        slept_s = 0.0 if self._ticked_s is None else now_s - self._ticked_s
        self._ticked_s = now_s
        if slept_s > self.options.leases.lease_s / 2:
            self.members.renew_all(now_s)  # the head itself was away: nobody else is to blame for the silence
        expired = self.members.expired(now_s)
        commands = self._gone(expired, now_s)
        commands += [Close(member.connection, "the lease ran out") for member in expired]
        if self.slowness.look(self.placing.serving, now_s):
            self.placing.pool_changed = True
        for placement, node in self.placing.stalled(now_s):
            self.members.failed(node, now_s)
            commands += self._end(placement, now_s)
        return commands

    def _gone(self, members: Collection[Member], now_s: float) -> list[Command]:
        """Forget these members; what they held is lost. To vanish in the middle of a load looks like a false claim."""
        for member in members:
            pending = self.placing.pending
            if pending is not None and pending.holds(member.id) and not pending.loads[member.id].loaded:
                self._believe_less(member.id, now_s)
            self.members.remove(member.id)
        return self.placing.lost([member.id for member in members], now_s)

    def _drain(self, node: NodeId, now_s: float) -> list[Command]:
        member = self.members.members.get(node)
        if member is not None:
            member.draining = True
        pending = self.placing.pending
        if member is not None and pending is not None and node in pending.nodes:
            return self.placing.end(pending, now_s)
        return []

    def _ban(self, node: NodeId, now_s: float) -> list[Command]:
        self.banned.add(node)
        commands: list[Command] = [Save(BanChanged(node, banned=True))]
        member = self.members.members.get(node)
        if member is not None:
            refusal = NotAllowed("This node was banned from the pool; ask whoever runs the pool why.")
            commands.append(Refuse(member.connection, refusal.code, str(refusal)))
            commands += self._gone([member], now_s)
        return commands
