"""The connections of machines: lets them in at the door, serves what they open, says what the head has to say.

Decides nothing about the pool: who said what goes to `hear` as an event.
"""

import asyncio
from collections.abc import Callable, Collection, Container
from contextlib import suppress

import structlog

from muster.broker.bulk import ReadBlob, serve_bulk
from muster.broker.events import ConnectionId, Disconnected, Event, Heard, NodeJoined, PrivateAsked
from muster.broker.strangers import Strangers
from muster.errors import LinkDown, MusterError, ProtocolViolation
from muster.link.base import Channel, Connection, Endpoint, short_id
from muster.link.outbox import Outbox
from muster.link.relay import RelayHub
from muster.link.serving import serve_channels
from muster.link.tasks import Tasks
from muster.spec.pool import NodeId
from muster.wire.messages.every import AnyMessage
from muster.wire.messages.membership import Hello, Refused
from muster.wire.messages.private import AskPrivate

log = structlog.get_logger()
HELLO_S = 5.0
"""A connection that has not said hello by then is closed."""
LAST_WORDS_S = 1.0
"""How long a node has to read why it is put out."""
MAX_CHANNELS = 16
"""Open at once on one connection: each may hold a frame that is being received."""
MAX_WAITING_MESSAGES = 1000
"""That a node may leave unread before it is put out."""
BURST_MESSAGES, MESSAGES_PER_S = 1000, 50.0
"""On one control channel. Every message is a decision to make, and some are written down."""


class Connections:
    def __init__(
        self,
        endpoint: Endpoint,
        hear: Callable[[Event], None],
        members: Collection[NodeId],
        guests: Container[ConnectionId],
        known: Collection[NodeId],
        read_blob: ReadBlob,
        tasks: Tasks,
        wall_clock: Callable[[], float],
    ) -> None:
        """`members` and `guests` are always those that are here now, `known` those that ever were."""
        self._guests = guests
        self._endpoint, self._hear, self._members, self._known = endpoint, hear, members, known
        self._read_blob, self._tasks, self._wall_clock = read_blob, tasks, wall_clock
        self._controls: dict[ConnectionId, _Control] = {}
        self._count = 0
        self._visitors: set[Connection] = set()
        self._strangers: Strangers[Connection] = Strangers()
        self._hub = RelayHub(lambda node: node in self._members)

    # --- what the head says -------------------------------------------------------------------------------------------

    def send(self, connection: ConnectionId, message: AnyMessage) -> None:
        if control := self._controls.get(connection):
            control.outbox.put(message)

    def refuse(self, connection: ConnectionId, code: str, reason: str) -> None:
        """Say why, then close."""
        self.send(connection, Refused(code=code, reason=reason))
        self.close(connection, reason)

    def close(self, connection: ConnectionId, reason: str) -> None:
        if control := self._controls.get(connection):
            control.end(reason)

    async def open(self, connection: ConnectionId, name: str) -> Channel | None:
        """A channel on a connection that a member dialled; None where that is gone."""
        control = self._controls.get(connection)
        return None if control is None else await control.connection.open(name)

    # --- what machines open -------------------------------------------------------------------------------------------

    async def accept(self) -> None:
        """Let machines in until the endpoint closes."""
        with suppress(LinkDown):
            while True:
                connection = await self._endpoint.accept()
                # Who was here before has proven its id, and shares its place at the door with nobody.
                source = connection.peer if connection.peer in self._known else connection.source
                may_wait, gone = self._strangers.enter(connection, source, _now())
                for other in [gone] if may_wait else [connection]:
                    if other is not None:
                        self._tasks.spawn(_turn_away(other))
                if may_wait:
                    self._visitors.add(connection)
                    self._tasks.spawn(self._serve(connection))

    async def _serve(self, connection: Connection) -> None:
        """Serve the channels that the peer opens, until the connection ends."""
        left: set[asyncio.Task[None]] = set()
        try:
            channel = await asyncio.wait_for(_first_control(connection), HELLO_S)
            left = {self._tasks.spawn(self._listen(connection, channel))}
            left |= await serve_channels(
                connection,
                lambda name, channel: self._channel(connection, name, channel),
                self._tasks,
                MAX_CHANNELS - 1,  # beside the control channel
            )
        except (LinkDown, ProtocolViolation, TimeoutError):
            pass
        finally:
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            await connection.close("the head has ended this connection")
            self._visitors.discard(connection)
            self._strangers.leave(connection)

    async def _listen(self, connection: Connection, channel: Channel) -> None:
        """One control channel, from the hello to its end."""
        self._count += 1
        number = self._count
        control = self._controls[number] = _Control(connection, channel)
        self._tasks.spawn(control.run())
        try:
            await self._hear_all(number, connection.peer, channel)
            control.end("the control channel has ended")
            await control.closed.wait()
        finally:
            del self._controls[number]
            await control.outbox.close()

    async def _hear_all(self, number: ConnectionId, peer: NodeId, channel: Channel) -> None:
        try:
            hello, _ = await asyncio.wait_for(channel.receive(), HELLO_S)
            if isinstance(hello, AskPrivate):
                self._hear(PrivateAsked(number, peer, hello, self._wall_clock()))
            elif isinstance(hello, Hello):
                self._hear(NodeJoined(number, peer, hello, self._wall_clock()))
            else:
                raise ProtocolViolation("A node's first message must be its hello; update Muster on it.")
            if peer in self._members or number in self._guests:
                self._strangers.leave(self._controls[number].connection)
            budget, counted_s = float(BURST_MESSAGES), _now()
            while True:
                message, _ = await channel.receive()
                now_s = _now()
                budget, counted_s = min(BURST_MESSAGES, budget + (now_s - counted_s) * MESSAGES_PER_S) - 1, now_s
                if budget < 0:
                    raise ProtocolViolation("This node says too much in too little time; update Muster on it.")
                self._hear(Heard(number, message))
        except ProtocolViolation as error:
            log.info("node.refused", code=error.code, reason=str(error))
            self.refuse(number, error.code, str(error))
        except (LinkDown, TimeoutError):
            pass
        finally:
            self._hear(Disconnected(number))

    async def _channel(self, connection: Connection, name: str, channel: Channel) -> None:
        try:
            if connection.peer not in self._members or name not in ("bulk", "relay"):
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


class _Control:
    """What the head says on one control channel. When that ends, so does the connection."""

    def __init__(self, connection: Connection, channel: Channel) -> None:
        self.connection = connection
        self.outbox = Outbox(channel, self._lost, MAX_WAITING_MESSAGES)
        self.closed = asyncio.Event()
        self._reason = ""

    def end(self, reason: str) -> None:
        """Close the connection once everything before has been sent."""
        self._reason = self._reason or reason
        self.outbox.end()

    async def run(self) -> None:
        """Returns when the connection was closed after the last message."""
        await self.outbox.ended()
        # Closing the connection may drop what is still under way, so the node gets to hang up first.
        with suppress(TimeoutError):
            await asyncio.wait_for(self.connection.closed.wait(), LAST_WORDS_S)
        await self.connection.close(self._reason)
        self.closed.set()

    def _lost(self, error: MusterError) -> None:
        self._reason = self._reason or str(error)
        if not isinstance(error, LinkDown):
            log.warning("node.misbehaved", node=short_id(self.connection.peer), reason=str(error))


async def _turn_away(connection: Connection) -> None:
    await connection.close("too many strangers are at the door; try again later")


async def _first_control(connection: Connection) -> Channel:
    while True:
        name, channel = await connection.accept()
        if name == "control":
            return channel
        await channel.close()


def _now() -> float:
    return asyncio.get_running_loop().time()
