"""A queue before a channel, so that a slow peer delays nobody but itself. Knows nothing of what is said."""

import asyncio
from collections.abc import Callable

from muster.errors import LinkDown, MusterError, ProtocolViolation
from muster.link.base import Channel
from muster.wire.frame import Payload
from muster.wire.messages.every import AnyMessage

MAX_WAITING_MESSAGES = 10_000
"""Put and not yet sent; a peer that leaves more unread is given up."""
OnLost = Callable[[MusterError], None]


def _nobody(error: MusterError) -> None:
    """For a channel whose end is noticed elsewhere, mostly where it is read."""


class Outbox:
    """Messages leave in order, from one task; `put` and `end` never wait, and the first failure is reported once."""

    def __init__(self, channel: Channel, on_lost: OnLost = _nobody, max_waiting: int = MAX_WAITING_MESSAGES) -> None:
        """`on_lost` may be called by `put`. After it nothing is sent; the channel is whoever's to close."""
        self.channel = channel
        self._on_lost = on_lost
        self._max_waiting = max_waiting
        self._queue: asyncio.Queue[tuple[AnyMessage, Payload] | None] = asyncio.Queue()
        self._takes_more = True
        self._task = asyncio.create_task(self._send_all())

    def put(self, message: AnyMessage, payload: Payload = b"") -> None:
        """Dropped where the channel is lost or ending."""
        if not self._takes_more:
            return
        if self._queue.qsize() < self._max_waiting:
            self._queue.put_nowait((message, payload))
        else:
            self._task.cancel()
            self._lose(ProtocolViolation(f"A peer leaves {self._max_waiting} messages unread; restart it."))

    def end(self) -> None:
        """Close the channel once everything before has been sent."""
        if self._takes_more:
            self._takes_more = False
            self._queue.put_nowait(None)

    async def ended(self) -> None:
        """Returns when nothing leaves any more: after `end`, a loss or `close`."""
        await asyncio.wait([self._task])

    def stop(self) -> None:
        """Send nothing any more; what waits is lost."""
        self._takes_more = False
        self._task.cancel()

    async def close(self) -> None:
        """Stop now, and hang up."""
        self.stop()
        await self.ended()
        await self.channel.close()

    async def _send_all(self) -> None:
        try:
            while (item := await self._queue.get()) is not None:
                await self.channel.send(*item)
            await self.channel.close()
        except (LinkDown, ProtocolViolation) as error:
            self._lose(error)

    def _lose(self, error: MusterError) -> None:
        self._takes_more = False
        self._queue = asyncio.Queue()  # what waits may be large, and whoever holds this may take a while to let go
        self._on_lost(error)
