"""The asyncio shell of the broker: events into `BrokerState`, commands out, and what operators and sessions ask for.

Decides nothing about the pool. Whoever runs it gives it jobs, an endpoint, a store and a way to read blobs.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from datetime import UTC, datetime
from secrets import token_bytes

import structlog

from muster.broker.audits.shelf import ReceiptShelf
from muster.broker.bulk import ReadBlob
from muster.broker.connections import Connections
from muster.broker.events import (
    BanNode,
    Close,
    Command,
    DrainNode,
    Event,
    Exert,
    File,
    ForgetNode,
    NodeAccused,
    PipelineSuspected,
    Refuse,
    Route,
    RouteChanged,
    Save,
    Search,
    Send,
    Tick,
    TicketIssued,
    TrustNode,
    UnbanNode,
)
from muster.broker.exercising import Exercising
from muster.broker.members.measured_pool import measured_pool, pool_file
from muster.broker.members.membership import Member
from muster.broker.pipelines.job import Job
from muster.broker.pipelines.searching import Searching
from muster.broker.routes import Routes
from muster.broker.state import BrokerOptions, BrokerState, seen
from muster.broker.storage.saving import Saving
from muster.broker.storage.store import Store
from muster.broker.view import View, max_context, nodes_view, pins_view, status_view
from muster.errors import InvalidRequest, LinkDown, PoolUnavailable, ProtocolViolation
from muster.link.base import Channel, Endpoint, short_id
from muster.link.tasks import Tasks
from muster.spec.answer import Answer
from muster.spec.pool import NodeId
from muster.verify.receipt_file import written
from muster.wire.messages.base import Address
from muster.wire.ticket import SECRET_BYTES, Ticket

log = structlog.get_logger()
TICK_S = 0.25
TURNS = 10
"""Of the event loop, from when a message comes in until it is handled: more than it takes."""
FORGET_EVERY_S = 3600.0


class BrokerService:
    """`start`, then `close`. Everything else may be called from the same event loop in between."""

    def __init__(
        self,
        jobs: Iterable[Job],
        store: Store,
        read_blob: ReadBlob,
        *,
        options: BrokerOptions | None = None,
        measured: Callable[[], Mapping[int, Mapping[str, float]]] = dict,
        answered: Callable[[str], Answer | None] = lambda request: None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """`measured` says what the door sees of each pipeline, by its epoch; `answered` what came of a request."""
        self._jobs = {job.name: job for job in jobs}
        self._store, self._read_blob, self._wall_clock = store, read_blob, wall_clock
        self._options = options or BrokerOptions()
        self._measured, self._answered = measured, answered
        self._tasks = Tasks()
        self._saving = Saving(store, wall_clock)
        self._searching = {job.name: Searching(job.search) for job in self._jobs.values() if job.search is not None}
        self._routes = Routes()
        self._shelf = ReceiptShelf()
        self._closing = False

    async def start(self, endpoint: Endpoint) -> None:
        """Find the pool again in the store and open the door."""
        self._endpoint = endpoint
        remembered = await asyncio.to_thread(self._store.remembered)
        await self._saving.load()
        self._state = BrokerState(endpoint.node_id, self._jobs.values(), self._options, remembered)
        members = self._state.members.members
        self._connections = Connections(
            # Through `self`, so that whoever watches `_handle` sees every event.
            endpoint,
            lambda event: self._handle(event),
            members,
            self._state.guests,
            self._state.admission.known,
            self._read_blob,
            self._tasks,
            self._wall_clock,
        )
        self._exercising = Exercising(self._connections.open)
        self._tasks.spawn(self._connections.accept())
        self._tasks.spawn(self._tick())
        self._tasks.spawn(self._forget_the_long_gone())
        self._saved = self._tasks.spawn(self._saving.run())

    async def wait(self) -> None:
        """Returns when the service was closed; raises if a bug ended it."""
        await self._tasks.wait()

    def stand_still(self) -> None:
        """Decide nothing any more: the pool is about to end."""
        self._closing = True

    async def close(self) -> None:
        """Close the door and every connection. Nodes go on until their lease tells them otherwise."""
        # The connections that end now are no news of the pool: the placement that was good is to be found again.
        self._closing = True
        for searching in self._searching.values():
            searching.close()
        self._saving.end()
        await self._tasks.cancel(but=[self._saved])
        await asyncio.gather(self._saved, return_exceptions=True)
        await self._endpoint.close()
        self._tasks.end()

    # --- what sessions ask --------------------------------------------------------------------------------------------

    def routes(self, job: str) -> tuple[Route, ...]:
        """The pipelines of the job that are ready now."""
        return self._routes.of(job)

    def watch(self, job: str) -> AsyncIterator[tuple[Route, ...]]:
        """The job's routes now, and again after every change; changes that were already overtaken are skipped."""
        return self._routes.watch(job)

    def max_context(self, job: str) -> int:
        """Of one request, prompt and answer together; 0 while nothing serves."""
        return max_context(self._state, job)

    def address(self, node: NodeId) -> Address:
        """How to dial a member. Raises `LinkDown`."""
        return self._member(node).address

    async def open(self, node: NodeId, name: str) -> Channel:
        """A channel to a member, on the connection that it dialled: nobody but the head needs an open port."""
        channel = await self._connections.open(self._member(node).connection, name)
        if channel is None:
            raise _not_here(node)
        return channel

    def suspect(self, epoch: int, unreachable: bool = False) -> None:
        """A client waits in vain for tokens of this epoch, or cannot even reach its first stage: have a look."""
        self._handle(PipelineSuspected(epoch, unreachable))

    def accuse(self, node: NodeId, reason: str) -> None:
        """A node broke the rules towards a client: do without it for a while."""
        log.warning("node.accused", node=short_id(node), reason=reason)
        self._handle(NodeAccused(node, reason))

    def _member(self, node: NodeId) -> Member:
        member = self._state.members.members.get(node)
        if member is None:
            raise _not_here(node)
        return member

    # --- what operators ask -------------------------------------------------------------------------------------------

    def region_of(self, node: NodeId) -> str | None:
        """Where a member, or this head, says that it stands."""
        if node == self._endpoint.node_id:
            return self._state.options.region
        member = self._state.members.members.get(node)
        return member.region if member is not None else None

    def status(self) -> View:
        view = status_view(self._state, self._measured())
        view["nodes"] = self.nodes()
        view["pins"] = pins_view(self._state, _now())
        view["store_trouble"] = self._saving.trouble
        return view

    def story(self) -> str:
        """The last few hundred events and what was done about each, in words."""
        return self._state.story.tell()

    def nodes(self) -> list[View]:
        """Everybody who is or was in the pool."""
        return nodes_view(self._state, self._saving.past.values(), _now(), self._wall_clock())

    async def pool_file(self) -> str:
        """The pool as its machines measured it, in TOML. Raises `PoolUnavailable` where nobody is here."""
        pool = measured_pool(self._state.members, ", ".join(self._jobs), _now())
        if not pool.nodes:
            raise PoolUnavailable("No machine of this pool has measured itself yet; start one with `muster join`.")
        when = datetime.fromtimestamp(self._wall_clock(), UTC).strftime("%Y-%m-%d %H:%M UTC")
        return await asyncio.to_thread(pool_file, pool, when)

    async def receipts(self, request: str) -> bytes:
        """What was signed of a request, as a file that `muster verify` reads. Raises `InvalidRequest`."""
        return written(request, self._shelf.of(request), ", ".join(self._jobs), self._answered(request))

    async def drain(self, node: NodeId) -> View:
        """Let the node finish and give it nothing new. Raises `InvalidRequest` for one that is not here."""
        if node not in self._state.members.members:
            raise InvalidRequest(f"Node {short_id(node)} is not in the pool; `muster nodes list` shows who is.", "node")
        self._handle(DrainNode(node))
        return self._one(node)

    async def ban(self, node: NodeId) -> View:
        """Put the node out and refuse it from now on. Raises `InvalidRequest` for one that was never here."""
        self._require_known(node)
        self._handle(BanNode(node))
        return self._one(node)

    async def unban(self, node: NodeId) -> View:
        self._require_known(node)
        self._handle(UnbanNode(node))
        return self._one(node)

    async def forget(self, node: NodeId) -> View:
        """Remember a machine that is gone no more. Raises `InvalidRequest` for one that is here, banned or unknown."""
        self._require_known(node)
        if node in self._state.members.members:
            raise InvalidRequest(f"Node {short_id(node)} is here; drain it first, or ban it.", "node")
        if node in self._state.admission.banned:
            raise InvalidRequest(f"Node {short_id(node)} is banned; lift the ban first, or it stays listed.", "node")
        self._handle(ForgetNode(node))
        return self._one(node)

    async def trust(self, node: NodeId) -> View:
        """What the machine claims is taken as it is. Raises `InvalidRequest` for one that was never here."""
        self._require_known(node)
        self._handle(TrustNode(node, own=True))
        return self._one(node)

    async def distrust(self, node: NodeId) -> View:
        """It has to show what it claims, as others do. Raises `InvalidRequest` where every machine is trusted."""
        self._require_known(node)
        if self._state.options.trust.everybody:
            raise InvalidRequest("This head trusts every machine; start it without `--trust all` first.", "node")
        self._handle(TrustNode(node, own=False))
        return self._one(node)

    async def issue_ticket(self, valid_s: float) -> Ticket:
        """A new ticket. Its secret is written down first, so that it outlives this process."""
        secret, expires_s = token_bytes(SECRET_BYTES), self._wall_clock() + valid_s
        await asyncio.to_thread(self._store.add_secret, secret, expires_s)
        self._handle(TicketIssued(secret, expires_s))
        address = self._endpoint.address
        return Ticket(self._endpoint.node_id, tuple(address.direct), secret, expires_s, address.relay)

    def _require_known(self, node: NodeId) -> None:
        if node not in self._state.admission.known and node not in self._saving.past:
            raise InvalidRequest(f"No node {short_id(node)} was ever here; `muster nodes list` shows them.", "node")

    def _one(self, node: NodeId) -> View:
        return next((view for view in self.nodes() if view["id"] == node), {"id": node})

    # --- events and commands ------------------------------------------------------------------------------------------

    def _handle(self, event: Event) -> None:
        if self._closing:
            return
        for command in self._state.handle(event, _now()):
            self._carry_out(command)

    def _carry_out(self, command: Command) -> None:
        match command:
            case Send(connection, message):
                self._connections.send(connection, message)
            case Refuse(connection, code, reason):
                log.info("node.refused", code=code, reason=reason)
                self._connections.refuse(connection, code, reason)
            case Close(connection, reason):
                self._connections.close(connection, reason)
            case RouteChanged(pipeline, route):
                self._routes.change(pipeline, route)
            case Save():
                self._saving.put(command)
            case Search():
                self._tasks.spawn(self._look_for_better(command))
            case File():
                self._file(command)
            case Exert():
                self._tasks.spawn(self._exert(command))

    def _file(self, filed: File) -> None:
        """Receipts that cannot be are no reason to end what serves, but whoever sends them does not serve for long."""
        try:
            self._shelf.file(filed.ring, filed.node, filed.receipts, self._wall_clock())
        except ProtocolViolation as error:
            self.accuse(filed.node, str(error))

    async def _exert(self, wanted: Exert) -> None:
        self._handle(await self._exercising.run(wanted))

    async def _tick(self) -> None:
        while True:
            self._handle(Tick(await _unread_s()))
            await asyncio.sleep(TICK_S)

    async def _forget_the_long_gone(self) -> None:
        """The first time only after a while: after a restart all seem to be gone, and most are on their way back."""
        while True:
            await asyncio.sleep(FORGET_EVERY_S)
            self.forget_the_long_gone()

    def forget_the_long_gone(self) -> None:
        here, limit_s = self._state.members, self._options.forget_after_s
        for member in here:
            self._saving.put(Save(seen(member)))  # where this head is killed it will know them by this
        gone = self._saving.last_seen_before(self._wall_clock() - limit_s) if limit_s else []
        for node in gone:
            if node not in here.members and node not in self._state.admission.banned:
                log.info("node.forgotten", node=short_id(node), reason=f"it was away for {limit_s / 86_400:.3g} days")
                self._handle(ForgetNode(node))

    async def _look_for_better(self, wanted: Search) -> None:
        shape = self._state.pipelines[wanted.pipeline].job.model.shape
        self._handle(await self._searching[wanted.pipeline.job].run(shape, wanted))


def _not_here(node: NodeId) -> LinkDown:
    return LinkDown(f"Node {short_id(node)} is not in the pool any more; wait for the next route.")


async def _unread_s() -> float:
    """Seconds for which what nodes said may lie unread, since every turn of this event loop takes long."""
    began_s = _now()
    for _ in range(TURNS):
        await asyncio.sleep(0)
    return _now() - began_s


def _now() -> float:
    return asyncio.get_running_loop().time()
