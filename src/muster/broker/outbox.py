"""What the head still has to say on one control channel. A slow node delays nobody but itself."""

import asyncio

import structlog

from muster.errors import LinkDown, MusterError
from muster.link.base import Channel, Connection, short_id
from muster.wire.messages.every import AnyMessage

log = structlog.get_logger()
MOST_WAITING = 1000
"""Messages that a node may leave unread before it is put out."""
LAST_WORDS_S = 1.0
"""How long a node has to read why it is put out."""


class Outbox:
    """Messages leave in order, from one task; `put` and `end` never wait."""

    def __init__(self, connection: Connection, channel: Channel) -> None:
        self.connection = connection
        self._channel = channel
        self._queue: asyncio.Queue[AnyMessage | None] = asyncio.Queue()
        self._reason = ""
        self._task = asyncio.create_task(self._run())

    def put(self, message: AnyMessage) -> None:
        if self._queue.qsize() > MOST_WAITING:
            self.end("it does not read what it is told")
        elif not self._reason:
            self._queue.put_nowait(message)

    def end(self, reason: str) -> None:
        """Close the connection once everything before has been sent."""
        if not self._reason:
            self._reason = reason
            self._queue.put_nowait(None)

    async def done(self) -> None:
        """Returns when the connection was closed after the last message."""
        await asyncio.gather(self._task, return_exceptions=True)

    async def close(self) -> None:
        """Stop now."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            while (message := await self._queue.get()) is not None:
                await self._channel.send(message)
            await self._channel.close()
            # Closing the connection may drop what is still under way, so the node gets to hang up first.
            await asyncio.wait_for(self.connection.closed.wait(), LAST_WORDS_S)
        except (MusterError, TimeoutError) as error:
            if not isinstance(error, LinkDown | TimeoutError):
                log.warning("outbox.failed", node=short_id(self.connection.peer), reason=str(error))
        await self.connection.close(self._reason)
