"""What others open towards this node: who may, and where their messages go. Knows nothing of leases or loading."""

import asyncio

import structlog

from muster.errors import LinkDown, ProtocolViolation
from muster.link.base import Channel, Connection, Endpoint, short_id
from muster.link.outbox import Outbox
from muster.link.relay import RelayCarrier
from muster.link.serving import serve_channels
from muster.link.tasks import Tasks
from muster.node.showing import Showing
from muster.node.stages import Stages
from muster.wire.messages.transfer import Ping, Pong

log = structlog.get_logger()
STRANGER_S = 15.0
"""A peer may dial a moment before the head tells us that it is a neighbour."""
MAX_STRANGERS = 64
MAX_CHANNELS = 8
"""Open at once on one connection: each may hold a frame that is being received."""


class Incoming:
    def __init__(self, stages: Stages, tasks: Tasks) -> None:
        self.showing: Showing | None = None
        """Answers the head's exercises, once this machine has measured itself."""
        self._stages = stages
        self._tasks = tasks
        self._strangers = 0

    async def connections(self, endpoint: Endpoint) -> None:
        """Let neighbours in, for ever."""
        while True:
            connection = await endpoint.accept()
            self._tasks.spawn(self._admit(connection))

    async def _admit(self, connection: Connection) -> None:
        if not await self._becomes_member(connection.peer):
            log.warning("stranger.refused", peer=short_id(connection.peer))
            await connection.close("not a neighbour in any placement")
            return
        await self.channels(connection)

    async def _becomes_member(self, peer: str) -> bool:
        if self._stages.is_member(peer):
            return True  # however many strangers stand at the door
        if self._strangers >= MAX_STRANGERS:
            return False
        self._strangers += 1
        try:
            async with asyncio.timeout(STRANGER_S):
                while not self._stages.is_member(peer):
                    await asyncio.sleep(0.05)
            return True
        except TimeoutError:
            return False
        finally:
            self._strangers -= 1

    async def give_way(self) -> None:
        """End what is being shown: a stage needs the memory."""
        if self.showing is not None:
            await self.showing.give_way()

    async def channels(self, connection: Connection, head: bool = False) -> None:
        """Serve every channel that the peer opens, until the connection ends."""

        async def serve(name: str, channel: Channel) -> None:
            if name == "proof" and head and self.showing is not None:
                await self.showing.serve(channel)
            else:
                await (self._serve_data if name == "data" else self._answer_pings)(connection.peer, channel)

        await serve_channels(connection, serve, self._tasks, MAX_CHANNELS)

    async def relayed(self, carrier: RelayCarrier) -> None:
        """Serve every channel that comes through the head, until the carrier ends."""
        try:
            while True:
                channel = await carrier.accept()
                if self._stages.is_member(channel.peer):
                    self._tasks.spawn(self._serve_data(channel.peer, channel))
                else:
                    await channel.close()
        except LinkDown:
            return

    async def _serve_data(self, peer: str, channel: Channel) -> None:
        box = Outbox(channel)
        reply = box.put  # tells this channel from others
        try:
            while True:
                message, payload = await channel.receive()
                if isinstance(message, Ping):
                    # Not through the box: who asks and does not read the answers is not asked for more.
                    await channel.send(Pong(token=message.token))
                elif self._stages.is_member(peer):
                    self._stages.receive(peer, message, payload, reply)
        except LinkDown as error:
            # Every move of layers ends channels; where a link is really down, whoever sends on it reports that.
            log.debug("channel.ended", peer=short_id(peer), how=str(error))
        except ProtocolViolation as error:
            log.warning("data.refused", peer=short_id(peer), reason=str(error))
        finally:
            self._stages.forget(reply)
            await box.close()

    @staticmethod
    async def _answer_pings(peer: str, channel: Channel) -> None:
        try:
            while True:
                message, _ = await channel.receive()
                if isinstance(message, Ping):
                    await channel.send(Pong(token=message.token))
        except LinkDown as error:
            log.debug("channel.ended", peer=short_id(peer), how=str(error))
        except ProtocolViolation as error:
            log.warning("pings.refused", peer=short_id(peer), reason=str(error))
