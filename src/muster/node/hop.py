"""The way to another stage, which a broken link ends only if it stays broken. Knows nothing of what is said.

A link that breaks for a moment is opened again; then whoever sends says once more what may not have arrived, and the
other end knows what it had. Where that fails, or nobody knows what to say again, the hop is lost.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

import structlog

from muster.errors import LinkDown, MusterError
from muster.link.base import Channel
from muster.link.outbox import Outbox
from muster.node.runners.base import Again
from muster.wire.frame import Payload
from muster.wire.messages.every import AnyMessage

log = structlog.get_logger()
PATIENCE_S = 4.0
"""A link that does not come back within this long is lost."""
PAUSE_S = 0.25
MAX_MENDS, MENDS_S = 4, 60.0
"""A link that breaks more often than this is lost: perhaps the other end hangs up over what is said."""


class NextHop:
    def __init__(
        self, dial: Callable[[], Awaitable[Channel]], on_lost: Callable[[MusterError], None], again: Again | None
    ) -> None:
        """`dial` gives a channel that works, or raises `LinkDown`. `on_lost` is called once, if ever."""
        self._dial, self._on_lost, self._again = dial, on_lost, again
        self._boxes: list[Outbox] = []
        """The last is the one that is in use, if any is."""
        self._box: Outbox | None = None
        self._watching: asyncio.Task[None] | None = None
        self._mending: asyncio.Task[None] | None = None
        self._mended_s: deque[float] = deque(maxlen=MAX_MENDS)
        self._is_closed = False

    async def open(self) -> None:
        """Raises `LinkDown`."""
        self._take(await self._dial())

    def _take(self, channel: Channel) -> Outbox:
        box = self._box = Outbox(channel, lambda error: self._broke(box, error))
        self._boxes.append(box)
        self._watching = asyncio.create_task(self._watch(box))
        return box

    async def _watch(self, box: Outbox) -> None:
        """Nobody answers here; but a link that breaks while nothing is sent would go unnoticed."""
        try:
            while True:
                await box.channel.receive()
        except MusterError as error:
            self._broke(box, error)

    def send(self, message: AnyMessage, payload: Payload = b"") -> None:
        """Never waits. While the link is broken nothing leaves, but what is kept is said again."""
        if self._box is not None:
            self._box.put(message, payload)

    def stop(self) -> None:
        self._is_closed = True
        if self._box is not None:
            self._box.stop()
        for task in (self._mending, self._watching):
            if task is not None:
                task.cancel()

    async def close(self) -> None:
        """Stop, and hang up."""
        self.stop()
        tasks = [task for task in (self._mending, self._watching) if task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(box.close() for box in self._boxes))

    def _broke(self, box: Outbox, error: MusterError) -> None:
        if self._is_closed or box is not self._box:
            return
        box.stop()
        self._box = None
        if self._again is None or not isinstance(error, LinkDown) or self._breaks_often():
            self._lose(error)
        else:
            self._mending = asyncio.create_task(self._mend(box, error))

    def _breaks_often(self) -> bool:
        now_s = asyncio.get_running_loop().time()
        often = len(self._mended_s) == MAX_MENDS and now_s - self._mended_s[0] < MENDS_S
        self._mended_s.append(now_s)
        return often

    async def _mend(self, broken: Outbox, error: MusterError) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                channel = await self._dialled()
        except TimeoutError:
            self._lose(error)
            return
        again = None if self._again is None else self._again()
        if again is None:
            self._lose(error)
            return
        box = self._take(channel)
        for message, payload in again:
            box.put(message, payload)
        log.info("link.mended", messages=len(again), reason=str(error))
        self._boxes.remove(broken)
        await broken.close()

    async def _dialled(self) -> Channel:
        while True:
            try:
                return await self._dial()
            except LinkDown:
                await asyncio.sleep(PAUSE_S)

    def _lose(self, error: MusterError) -> None:
        self._is_closed = True
        self._on_lost(error)
