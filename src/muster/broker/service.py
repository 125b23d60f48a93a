"""The asyncio shell of the broker: connections in, `BrokerState` in the middle, messages and routes out.

Decides nothing about the pool. Whoever runs it gives it an endpoint, a store and a way to read blobs.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from secrets import token_bytes
from typing import Any

import structlog

from muster.broker.bulk import ReadBlob, serve_bulk
from muster.broker.events import (
    BanNode,
    Close,
    Command,
    Disconnected,
    DrainNode,
    Event,
    Heard,
    NodeAccused,
    NodeJoined,
    PipelineSuspected,
    Refuse,
    Route,
    RouteChanged,
    Save,
    Search,
    Send,
    Tick,
    TicketIssued,
    UnbanNode,
)
from muster.broker.members.measured_pool import measured_pool, pool_file
from muster.broker.outbox import Outbox
from muster.broker.pipelines.placement import Served
from muster.broker.pipelines.searching import Searching, SearchPlan
from muster.broker.state import BrokerOptions, BrokerState
from muster.broker.storage.saving import Saving
from muster.broker.storage.store import Store
from muster.broker.view import View, max_context, nodes_view, pins_view, status_view
from muster.errors import InvalidRequest, LinkDown, MusterError, PoolUnavailable, ProtocolViolation
from muster.link.base import Channel, Connection, Endpoint, short_id
from muster.link.relay import RelayHub
from muster.plan.quick.planner import Planner, place
from muster.spec.pool import NodeId
from muster.wire.messages.base import Address
from muster.wire.messages.membership import Hello, Refused
from muster.wire.ticket import SECRET_BYTES, Ticket

log = structlog.get_logger()
TICK_S = 0.25
HELLO_S = 15.0
"""A connection that has not said hello by then is closed."""
MOST_CHANNELS = 16
"""Open at once on one connection: each may hold a frame that is being received."""
MOST_STRANGERS = 256
"""Connections that have not joined."""
BURST_MESSAGES, MESSAGES_PER_S = 1000, 50.0
"""On one control channel. Every message is a decision to make, and some are written down."""


class BrokerService:
    """`start`, then `close`. Everything else may be called from the same event loop in between."""

    def __init__(
        self,
        served: Served,
        store: Store,
        read_blob: ReadBlob,
        *,
        planner: Planner = place,
        search: SearchPlan | None = None,
        options: BrokerOptions | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """`planner` must be quick. `search` may take its time: it looks for something better while that serves."""
        self._served, self._store, self._read_blob = served, store, read_blob
        options = options or BrokerOptions()
        placing = replace(options.placing, searches=search is not None)
        self._planner, self._options = planner, replace(options, placing=placing)
        self._wall_clock = wall_clock
        self._outboxes: dict[int, Outbox] = {}
        self._connections = 0
        self._visitors: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._saving = Saving(store)
        self._searching = Searching(search) if search is not None else None
        self._route: Route | None = None
        self._route_changed = asyncio.Event()
        self._closing = False
        self._ended: asyncio.Future[None] | None = None

    async def start(self, endpoint: Endpoint) -> None:
        """Find the pool again in the store and open the door."""
        self._endpoint = endpoint
        remembered = await asyncio.to_thread(self._store.remembered)
        await self._saving.load()
        self._state = BrokerState(endpoint.node_id, self._served, self._planner, self._options, remembered)
        self._hub = RelayHub(lambda node: node in self._state.members.members)
        self._ended = asyncio.get_running_loop().create_future()
        self._spawn(self._accept())
        self._spawn(self._tick())
        self._saved = self._spawn(self._saving.run())

    async def wait(self) -> None:
        """Returns when the service was closed; raises if a bug ended it."""
        assert self._ended is not None, "start the service first"
        await asyncio.shield(self._ended)

    async def close(self) -> None:
        """Close the door and every connection. Nodes go on until their lease tells them otherwise."""
        # The connections that end now are no news of the pool: the placement that was good is to be found again.
        self._closing = True
        tasks = self._tasks - {self._saved}
        for task in tasks:
            task.cancel()
        if self._searching is not None:
            self._searching.close()
        self._saving.end()
        await asyncio.gather(self._saved, *tasks, return_exceptions=True)
        await self._endpoint.close()
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    # --- what others ask ----------------------------------------------------------------------------------------------

    def route(self) -> Route | None:
        """The pipeline that serves now."""
        return self._route

    async def watch(self) -> AsyncIterator[Route | None]:
        """The route now, and again after every change; changes that were already overtaken are skipped."""
        while True:
            changed, route = self._route_changed, self._route
            yield route
            if self._route is route:
                await changed.wait()

    def address(self, node: NodeId) -> Address:
        """How to dial a member. Raises `LinkDown`."""
        member = self._state.members.members.get(node)
        if member is None:
            raise LinkDown(f"Node {short_id(node)} is not in the pool any more; wait for the next route.")
        return member.address

    async def open(self, node: NodeId, name: str) -> Channel:
        """A channel to a member, on the connection that it dialled: nobody but the head needs an open port."""
        member = self._state.members.members.get(node)
        outbox = self._outboxes.get(member.connection) if member is not None else None
        if outbox is None:
            raise LinkDown(f"Node {short_id(node)} is not in the pool any more; wait for the next route.")
        return await outbox.connection.open(name)

    def region_of(self, node: NodeId) -> str | None:
        """Where a member, or this head, says that it stands."""
        if node == self._endpoint.node_id:
            return self._state.options.region
        member = self._state.members.members.get(node)
        return member.region if member is not None else None

    def status(self) -> View:
        view = status_view(self._state)
        view["nodes"] = self.nodes()
        view["pins"] = pins_view(self._state, self._now())
        view["store_trouble"] = self._saving.trouble
        return view

    def max_context(self) -> int:
        """Of one request, prompt and answer together; 0 while nothing serves."""
        return max_context(self._state)

    def nodes(self) -> list[View]:
        """Everybody who is or was in the pool."""
        return nodes_view(self._state, self._saving.past.values(), self._now())

    async def pool_file(self) -> str:
        """The pool as its machines measured it, in TOML. Raises `PoolUnavailable` where nobody is here."""
        pool = measured_pool(self._state.members, self._served.shape.name, self._now())
        if not pool.nodes:
            raise PoolUnavailable("No machine of this pool has measured itself yet; start one with `muster join`.")
        when = datetime.fromtimestamp(self._wall_clock(), UTC).strftime("%Y-%m-%d %H:%M UTC")
        return await asyncio.to_thread(pool_file, pool, when)

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

    def suspect(self, epoch: int, unreachable: bool = False) -> None:
        """A client waits in vain for tokens of this epoch, or cannot even reach its first stage: have a look."""
        self._handle(PipelineSuspected(epoch, unreachable))

    def accuse(self, node: NodeId, reason: str) -> None:
        """A node broke the rules towards a client: do without it for a while."""
        log.warning("node.accused", node=short_id(node), reason=reason)
        self._handle(NodeAccused(node, reason))

    async def issue_ticket(self, valid_s: float) -> Ticket:
        """A new ticket. Its secret is written down first, so that it outlives this process."""
        secret, expires_s = token_bytes(SECRET_BYTES), self._wall_clock() + valid_s
        await asyncio.to_thread(self._store.add_secret, secret, expires_s)
        self._handle(TicketIssued(secret, expires_s))
        address = self._endpoint.address
        return Ticket(self._endpoint.node_id, tuple(address.direct), secret, expires_s, address.relay)

    def _require_known(self, node: NodeId) -> None:
        if node not in self._state.known and node not in self._saving.past:
            raise InvalidRequest(f"No node {short_id(node)} was ever here; `muster nodes list` shows them.", "node")

    def _one(self, node: NodeId) -> View:
        return next((view for view in self.nodes() if view["id"] == node), {"id": node})

    # --- events and commands ------------------------------------------------------------------------------------------

    def _handle(self, event: Event) -> None:
        if self._closing:
            return
        for command in self._state.handle(event, self._now()):
            self._carry_out(command)

    def _carry_out(self, command: Command) -> None:
        match command:
            case Send(connection, message):
                if outbox := self._outboxes.get(connection):
                    outbox.put(message)
            case Refuse(connection, code, reason):
                log.info("node.refused", code=code, reason=reason)
                if outbox := self._outboxes.get(connection):
                    outbox.put(Refused(code=code, reason=reason))
                    outbox.end(reason)
            case Close(connection, reason):
                if outbox := self._outboxes.get(connection):
                    outbox.end(reason)
            case RouteChanged(route):
                log.info("route.changed", epoch=route.epoch if route is not None else None)
                self._route = route
                self._route_changed.set()
                self._route_changed = asyncio.Event()
            case Save():
                self._saving.put(command)
            case Search():
                self._spawn(self._look_for_better(command))

    async def _tick(self) -> None:
        while True:
            self._handle(Tick())
            await asyncio.sleep(TICK_S)

    async def _look_for_better(self, wanted: Search) -> None:
        if self._searching is not None:
            self._handle(await self._searching.run(self._state.placing.served.shape, wanted))

    # --- connections --------------------------------------------------------------------------------------------------

    async def _accept(self) -> None:
        with suppress(LinkDown):
            while True:
                connection = await self._endpoint.accept()
                if len(self._visitors) - len(self._state.members.members) < MOST_STRANGERS:
                    self._visitors.add(connection)
                    self._spawn(self._serve(connection))
                else:
                    await connection.close("too many strangers are at the door; try again later")

    async def _serve(self, connection: Connection) -> None:
        """Serve the channels that the peer opens, until the connection ends."""
        channels: set[asyncio.Task[None]] = set()
        try:
            control = await asyncio.wait_for(self._first_control(connection), HELLO_S)
            channels.add(self._spawn(self._control(connection, control)))
            while True:
                name, channel = await connection.accept()
                channels = {task for task in channels if not task.done()}
                if len(channels) < MOST_CHANNELS:
                    channels.add(self._spawn(self._channel(connection, name, channel)))
                else:
                    await channel.close()
        except (LinkDown, ProtocolViolation, TimeoutError):
            pass
        finally:
            for task in channels:
                task.cancel()
            await asyncio.gather(*channels, return_exceptions=True)
            await connection.close("the head has ended this connection")
            self._visitors.discard(connection)

    @staticmethod
    async def _first_control(connection: Connection) -> Channel:
        while True:
            name, channel = await connection.accept()
            if name == "control":
                return channel
            await channel.close()

    async def _control(self, connection: Connection, channel: Channel) -> None:
        self._connections += 1
        number = self._connections
        outbox = self._outboxes[number] = Outbox(connection, channel)
        try:
            await self._listen(number, connection.peer, channel)
            outbox.end("the control channel has ended")
            await outbox.done()
        finally:
            del self._outboxes[number]
            await outbox.close()

    async def _listen(self, number: int, peer: NodeId, channel: Channel) -> None:
        try:
            hello, _ = await asyncio.wait_for(channel.receive(), HELLO_S)
            if not isinstance(hello, Hello):
                raise ProtocolViolation("A node's first message must be its hello; update Muster on it.")
            self._handle(NodeJoined(number, peer, hello, self._wall_clock()))
            budget, counted_s = float(BURST_MESSAGES), self._now()
            while True:
                message, _ = await channel.receive()
                now_s = self._now()
                budget, counted_s = min(BURST_MESSAGES, budget + (now_s - counted_s) * MESSAGES_PER_S) - 1, now_s
                if budget < 0:
                    raise ProtocolViolation("This node says too much in too little time; update Muster on it.")
                self._handle(Heard(number, message))
        except ProtocolViolation as error:
            self._carry_out(Refuse(number, error.code, str(error)))
        except (LinkDown, TimeoutError):
            pass
        finally:
            self._handle(Disconnected(number))

    async def _channel(self, connection: Connection, name: str, channel: Channel) -> None:
        try:
            if connection.peer not in self._state.members.members or name not in ("bulk", "relay"):
                await channel.close()
            elif name == "bulk":
                await serve_bulk(channel, self._read_blob)
            else:
                await self._hub.serve(connection.peer, channel)
        except ProtocolViolation as error:
            log.warning("node.misbehaved", node=short_id(connection.peer), reason=str(error))
            await connection.close(str(error))
        except LinkDown:
            pass
        except MusterError as error:  # reading a blob failed: the node asks again
            log.error("blob.failed", reason=str(error))
            await channel.close()

    # --- small things -------------------------------------------------------------------------------------------------

    def _spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    def _task_done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error("broker.bug", exc_info=error)
            if self._ended is not None and not self._ended.done():
                self._ended.set_exception(error)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
