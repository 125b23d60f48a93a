"""Who is here: leases, claims, reputations, links. Knows nothing of placements.

A lease is renewed by anything a node says. A reputation outlives a membership, so that a liar gains nothing by
dialling again; it is forgiven after a while without trouble.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace

from muster.broker.events import ConnectionId
from muster.broker.members.links import Links
from muster.broker.members.plausible import clipped
from muster.broker.members.trust import Standing, State, TrustOptions
from muster.spec.guesses import GuessCounts
from muster.spec.pool import DEFAULT_LINK, Device, LinkSpeed, Node, NodeId, Pool
from muster.wire.messages.base import Address
from muster.wire.messages.membership import Heartbeat, Measured

MAX_RECORDS = 20_000
MAX_LINKS_PER_NODE = 256
LINK_NEWS = 1.5
"""A link that is measured so many times faster or slower than before has changed."""
LATENCY_NOISE_S = 0.005
"""Of so little difference a latency is not news."""
DRAIN_KEPT_S = 600.0
"""Who was told to drain and lost its connection stays drained when it is back within this time."""
BROKEN_S = 60.0
BUSY = 0.1
"""A head that is late by more than this share of a lease does not count that time as a member's silence."""


@dataclass(frozen=True, slots=True)
class LeaseOptions:
    heartbeat_s: float = 1.0
    """Nodes say something this often."""
    lease_s: float = 3.0
    """A node that was silent for longer is lost."""
    strikes: int = 3
    """Failures after which a node is left alone for `quarantine_s`."""
    quarantine_s: float = 600.0
    rest_s: float = 2.0
    """Pause after a first failure; doubles with each further one."""
    forgive_s: float = 600.0
    """Failures count no more after this long without one."""


@dataclass(slots=True)
class Member:
    id: NodeId
    connection: ConnectionId
    name: str
    region: str
    address: Address
    heard_s: float
    island: str = ""
    owner: str = ""
    told: Device | None = None
    """As it measured itself; None until it has."""
    claimed: Device | None = None
    """The same, as far as it is plausible."""
    device: Device | None = None
    """As it is believed to be; None until it has shown what it claims, or is the operator's own."""
    exercising: bool = False
    """Whether it is showing what it can do just now."""
    head_latency_s: float = 0.0
    """One way between it and the head, as the head measured it."""
    room_bytes: int = 0
    """That it said was free, or taken by layers."""
    claim_bytes: int = 0
    """The least of what it lends and what it says is free."""
    free_memory_bytes: int = 0
    active: dict[int, int] = field(default_factory=dict)
    """Requests at work, by the epoch of each stage that is loaded on it."""
    passed: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Steps that it says it received and sent on, by the epoch of the stage."""
    guesses: dict[int, GuessCounts] = field(default_factory=dict)
    """Of tokens, by the epoch of each ring whose first stage is loaded on it."""
    in_flight: dict[int, int] = field(default_factory=dict)
    """Steps that it says it keeps in flight, by the epoch of the ring whose first stage it has."""
    steps: int = 0
    """Computed so far, as it says itself."""
    stepped_s: float = 0.0
    """When `steps` was last seen to grow."""
    computing_s: float = 0.0
    """How long its step at hand had been computing at its last heartbeat."""
    busy_s: float = 0.0
    """Spent computing so far, as it says itself."""
    slowness: float = 1.0
    """So many times slower than it measured itself it was last seen to compute, next to the others of its ring."""
    slow_s: float = 0.0
    """When that was."""
    hangs: bool = False
    """Its step at hand was found not to end; nothing new until it does."""
    draining: bool = False
    wants_to_leave: bool = False
    """Its owner said so; one that only the operator drains stays, though it may get nothing new."""
    links: dict[NodeId, LinkSpeed] = field(default_factory=dict)
    """As this node measured them; a bandwidth of 0 here means not measured."""

    @property
    def active_requests(self) -> int:
        return sum(self.active.values())


@dataclass(slots=True)
class Record:
    """What this node's past says about it."""

    proven_bytes: int = 0
    """The largest stage that it has held."""
    cap_bytes: int | None = None
    """Believed at most, after a claim turned out to be false."""
    failures: int = 0
    last_failure_s: float = 0.0
    rest_until_s: float = 0.0
    drained_s: float | None = None
    """When it was last here with the operator's order to drain; None without one."""
    standing: Standing = field(default_factory=Standing)
    """What it has shown of what it claims."""


class Membership:
    def __init__(self, head: NodeId, options: LeaseOptions, trust: TrustOptions = TrustOptions()) -> None:
        self.head = head
        self.options = options
        self.own = set(trust.own)
        """Whose claims are taken as they are."""
        self._all_own = trust.everybody
        self.members: dict[NodeId, Member] = {}
        self.records: dict[NodeId, Record] = {}
        self.ticked_s: float | None = None
        """When leases were last looked at."""
        self.broken: dict[frozenset[NodeId], float] = {}
        """Pairs whose link was reported broken twice -> until when it is not used."""
        self._reported: dict[frozenset[NodeId], float] = {}
        self._by_connection: dict[ConnectionId, NodeId] = {}

    def __iter__(self) -> Iterator[Member]:
        return iter(self.members.values())

    def at(self, connection: ConnectionId) -> Member | None:
        node = self._by_connection.get(connection)
        return None if node is None else self.members[node]

    def add(self, member: Member) -> None:
        assert member.id not in self.members, "the ghost must be removed first"
        drained_s = self.record(member.id, member.heard_s).drained_s
        member.draining = drained_s is not None and member.heard_s - drained_s <= DRAIN_KEPT_S
        if not member.draining:
            self.forget_drain(member.id, member.heard_s)
        self.members[member.id] = member
        self._by_connection[member.connection] = member.id

    def remove(self, node: NodeId, now_s: float) -> Member:
        member = self.members.pop(node)
        del self._by_connection[member.connection]
        record = self.record(node, now_s)
        if record.drained_s is not None:
            record.drained_s = now_s
        return member

    def expired(self, now_s: float, late_s: float = 0.0) -> list[Member]:
        """Members that were silent for too long; called now and then.

        `late_s` (seconds) for which the head was too busy to read what they said; it does not count as silence.
        """
        slept_s = 0.0 if self.ticked_s is None else now_s - self.ticked_s
        self.ticked_s = now_s
        if slept_s > self.options.lease_s / 2:  # the head itself was away: nobody else is to blame for the silence
            for member in self:
                member.heard_s = now_s
        elif late_s > self.options.lease_s * BUSY:
            for member in self:
                member.heard_s = min(now_s, member.heard_s + late_s)
        return [member for member in self if now_s - member.heard_s > self.options.lease_s]

    # --- what a member says -------------------------------------------------------------------------------------------

    def heard(self, connection: ConnectionId, now_s: float) -> Member | None:
        """Whoever said something on this connection; its lease begins anew. None for a ghost."""
        member = self.at(connection)
        if member is not None:
            member.heard_s = now_s
        return member

    def beat(self, member: Member, beat: Heartbeat, now_s: float) -> bool:
        """Take a heartbeat in; whether a step that did not seem to end has ended."""
        recovered = member.hangs and beat.computing_s < member.computing_s
        if recovered:
            member.hangs = False
        if beat.steps > member.steps:
            member.stepped_s = now_s
        member.free_memory_bytes = beat.free_memory_bytes
        member.active = {stage.epoch: stage.active_requests for stage in beat.stages}
        member.passed = {stage.epoch: (stage.received, stage.sent) for stage in beat.stages}
        member.guesses = {stage.epoch: stage.guesses for stage in beat.stages}
        member.in_flight = {stage.epoch: stage.in_flight for stage in beat.stages}
        member.steps, member.computing_s, member.busy_s = beat.steps, beat.computing_s, beat.busy_s
        return recovered

    def measured(self, member: Member, measured: Measured, held_bytes: int) -> None:
        """What it lends is the least of its device's memory and of what it says is free beside `held_bytes`."""
        member.told, member.free_memory_bytes = measured.device, measured.free_memory_bytes
        member.room_bytes = measured.free_memory_bytes + held_bytes
        self._count(member, measured.device)

    def _count(self, member: Member, told: Device) -> None:
        """What it told, as far as its word counts."""
        standing, own = self.standing(member.id, member.heard_s), self.is_own(member.id)
        member.claimed, standing.beyond = (told, "") if own else clipped(told)
        member.claim_bytes = min(member.claimed.memory_bytes, member.room_bytes)
        standing.claims(member.claimed)
        self.believe(member, member.heard_s)

    def believe(self, member: Member, now_s: float) -> bool:
        """What is believed of the machine, from now on; whether that is news."""
        before, standing = member.device, self.standing(member.id, now_s)
        if member.claimed is None or self.is_own(member.id):
            member.device = member.claimed
        else:
            member.device = standing.believed(member.claimed) if standing.has_shown else None
        return member.device != before

    def drain(self, node: NodeId) -> bool:
        """It gets nothing new from now on; whether it is here."""
        member = self.members.get(node)
        if member is not None:
            member.draining = True
        return member is not None

    def keep_drained(self, node: NodeId, now_s: float) -> None:
        """The operator's order outlives a lost connection. A node keeps its own wish by itself."""
        self.record(node, now_s).drained_s = now_s

    def forget_drain(self, node: NodeId, now_s: float) -> None:
        """It leaves in good order: whoever starts it again wants it to work."""
        self.record(node, now_s).drained_s = None

    def hangs(self, member: Member, now_s: float) -> None:
        """Its step at hand does not end: nothing new until it does."""
        member.hangs = True
        self.failed(member.id, now_s)

    # --- reputation -------------------------------------------------------------------------------------------------

    def record(self, node: NodeId, now_s: float) -> Record:
        """The node's reputation, forgiven if it is due."""
        record = self.records.pop(node, None) or Record()
        if record.failures and now_s - record.last_failure_s > self.options.forgive_s:
            record = Record(record.proven_bytes, drained_s=record.drained_s, standing=record.standing)
        self.records[node] = record  # the most recently used is last
        if len(self.records) > MAX_RECORDS:
            stale = next((node for node in self.records if node not in self.members), None)
            self.records.pop(stale or "", None)
        return record

    def proved(self, node: NodeId, held_bytes: int, now_s: float) -> None:
        record = self.record(node, now_s)
        record.proven_bytes = max(record.proven_bytes, held_bytes)

    def failed(self, node: NodeId, now_s: float) -> None:
        """One more failure: let it rest, for long after too many."""
        record = self.record(node, now_s)
        record.failures += 1
        record.last_failure_s = now_s
        record.standing.set_back()
        rest_s = self.options.rest_s * 2 ** (record.failures - 1)
        if record.failures >= self.options.strikes:
            rest_s = self.options.quarantine_s
        self.rest(node, rest_s, now_s)

    def lied(self, node: NodeId, asked_bytes: int, loaded_bytes: int, now_s: float) -> None:
        """It could not hold `asked_bytes`: believe what it holds or has held before, or else clearly less than that."""
        record = self.record(node, now_s)
        proven_bytes = record.proven_bytes if record.proven_bytes < asked_bytes else 0
        believed = max(loaded_bytes, proven_bytes, asked_bytes * 3 // 4)
        record.cap_bytes = believed if record.cap_bytes is None else max(loaded_bytes, min(record.cap_bytes, believed))
        self.failed(node, now_s)

    def rest(self, node: NodeId, seconds: float, now_s: float) -> None:
        record = self.record(node, now_s)
        record.rest_until_s = max(record.rest_until_s, now_s + seconds)

    def is_resting(self, node: NodeId, now_s: float) -> bool:
        return now_s < self.record(node, now_s).rest_until_s

    def cap(self, member: Member, now_s: float) -> int:
        """The memory that the planner may count on."""
        believed = self.record(member.id, now_s).cap_bytes
        return member.claim_bytes if believed is None else min(member.claim_bytes, believed)

    # --- trust --------------------------------------------------------------------------------------------------------

    def is_own(self, node: NodeId) -> bool:
        """Whether the operator has said that this machine is one of theirs."""
        return self._all_own or node in self.own

    def own_changed(self, node: NodeId, own: bool, now_s: float) -> None:
        """From now on its word counts, or it has to show everything from the beginning."""
        self.own = {*self.own, node} if own else self.own - {node}
        if not own:
            self.record(node, now_s).standing = Standing()
        member = self.members.get(node)
        if member is not None and member.told is not None:
            self._count(member, member.told)

    def standing(self, node: NodeId, now_s: float) -> Standing:
        return self.record(node, now_s).standing

    def trust(self, node: NodeId, now_s: float) -> State:
        if self.is_own(node):
            return "own"
        standing = self.standing(node, now_s)
        return "proving" if not standing.has_shown else "established" if standing.established else "on trial"

    def establish(self, nodes: Iterable[NodeId], now_s: float) -> None:
        """They are entrusted with everything, for there is nobody else."""
        for node in nodes:
            self.standing(node, now_s).established = True

    # --- links ------------------------------------------------------------------------------------------------------

    def measured_link(self, member: Member, peer: NodeId, round_trip_s: float, bandwidth: float) -> bool:
        """Whether this is news: not known before, or clearly different."""
        before = member.links.pop(peer, None)
        if peer == self.head:
            round_trip_s = max(round_trip_s, 2 * member.head_latency_s)
        if bandwidth <= 0 and before is not None:
            bandwidth = before.bandwidth_bytes_per_s
        member.links[peer] = LinkSpeed(round_trip_s / 2, bandwidth)
        if len(member.links) > MAX_LINKS_PER_NODE:
            del member.links[next(peer for peer in member.links if peer != self.head)]
        return before is None or _differ(before, member.links[peer])

    def saw_round_trip(self, member: Member, seconds: float) -> None:
        """The head has measured its own way to the member: the worse of both counts."""
        member.head_latency_s = seconds / 2
        told = member.links.get(self.head)
        if told is not None:
            member.links[self.head] = replace(told, latency_s=max(told.latency_s, member.head_latency_s))

    def report_broken(self, a: NodeId, b: NodeId, now_s: float, is_inside: bool = False) -> None:
        """The first report may be a hiccup; after a second within a minute the link is avoided for a minute.

        Members of an island (`is_inside`) try long to find each other, and nobody is served meanwhile: of theirs a
        second report within ten minutes counts, for ten minutes.
        """
        pair, counts_s = frozenset((a, b)), self.options.quarantine_s if is_inside else BROKEN_S
        if now_s - self._reported.get(pair, -1e9) < counts_s:
            self.broken[pair] = now_s + counts_s
        longest_s = max(BROKEN_S, self.options.quarantine_s)
        self._reported = {known: at for known, at in self._reported.items() if now_s - at < longest_s}
        self._reported[pair] = now_s

    def complains_about(self, node: NodeId, now_s: float) -> int:
        """With how many others its links are broken: three say more about the node than about them."""
        return sum(1 for pair, until in self.broken.items() if node in pair and now_s < until)

    def is_eligible(self, member: Member, now_s: float) -> bool:
        willing = member.device is not None and not member.draining and not member.hangs
        return willing and not self.is_resting(member.id, now_s)

    def pool(self, now_s: float, also: Collection[NodeId] = ()) -> Pool:
        """What the planner may use now: measured, willing, in good standing; memory as far as it is believed.

        `also` are members that count whatever their standing.
        """
        members = [m for m in self if m.id in also or self.is_eligible(m, now_s)]
        nodes = tuple(self.node(member, now_s) for member in sorted(members, key=lambda member: member.id))
        return Pool(nodes, self.links(members, now_s))

    def links(self, members: Iterable[Member], now_s: float) -> Links:
        """Between these members, as far as they are known."""
        self.broken = {pair: until for pair, until in self.broken.items() if now_s < until}
        return Links(self.head, {member.id: member for member in members}, frozenset(self.broken))

    def fetch_bytes_per_s(self, node: NodeId) -> float:
        """How fast a member gets weights from the head, as far as that is known."""
        to_head = self.members[node].links.get(self.head)
        known = to_head.bandwidth_bytes_per_s if to_head is not None else 0.0
        return known or DEFAULT_LINK.bandwidth_bytes_per_s

    def node(self, member: Member, now_s: float) -> Node:
        """A member that has measured itself, with the memory and the speed that it is believed to have."""
        assert member.device is not None
        slow, device = member.slowness, replace(member.device, memory_bytes=self.cap(member, now_s))
        if slow > 1.0:
            speeds = {dtype: speed / slow for dtype, speed in device.flops_per_s.items()}
            bandwidth = device.memory_bandwidth_bytes_per_s / slow
            device = replace(device, flops_per_s=speeds, memory_bandwidth_bytes_per_s=bandwidth)
        return Node(member.id, member.name, member.region, device, island=member.island, owner=member.owner)


def _differ(before: LinkSpeed, now: LinkSpeed) -> bool:
    """Whether either figure has changed by more than measurements of one link differ."""
    latencies = (before.latency_s + LATENCY_NOISE_S, now.latency_s + LATENCY_NOISE_S)
    bandwidths = (before.bandwidth_bytes_per_s, now.bandwidth_bytes_per_s)
    return any(max(figures) > LINK_NEWS * min(figures) for figures in (latencies, bandwidths))
