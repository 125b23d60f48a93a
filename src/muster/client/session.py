"""The asyncio shell around `ClientState`: one queue per request, one data channel per pipeline.

Knows nothing of HTTP, nor of how a pipeline was chosen: the broker's routes come in through `watch_routes`, and
`dial` turns a node id into a channel.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

import structlog

from muster.client.state import CancelAt, ClientState, Command, Deliver, End, Patience, SubmitTo, Suspect
from muster.errors import LinkDown, MusterError, ProtocolViolation, from_code
from muster.link.base import Channel
from muster.spec.request import Progress, Request
from muster.wire.messages import Cancel, Failed, Submit, Tokens

log = structlog.get_logger()
TICK_S = 0.5


class Route(Protocol):
    """A ready pipeline: send requests to `node`, the one that holds its first stage."""

    @property
    def epoch(self) -> int: ...

    @property
    def node(self) -> str: ...


class Sessions:
    """Implements the API's backend: `generate` yields tokens whatever happens to the machines behind it."""

    def __init__(
        self,
        dial: Callable[[str], Awaitable[Channel]],
        suspect: Callable[[int], None] = lambda epoch: None,
        patience: Patience | None = None,
    ) -> None:
        self.state = ClientState(patience or Patience())
        self._dial = dial
        self._suspect = suspect
        self._queues: dict[str, asyncio.Queue[Progress | MusterError]] = {}
        self._channels: dict[int, Channel] = {}
        self._outboxes: dict[int, asyncio.Queue[Submit | Cancel]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, routes: AsyncIterator[Route | None]) -> None:
        """Follow the broker's routes until cancelled."""
        ticker = asyncio.create_task(self._tick_forever())
        try:
            async for route in routes:
                await self._follow(route)
        finally:
            for task in [ticker, *self._tasks]:
                task.cancel()
            await asyncio.gather(ticker, *self._tasks, return_exceptions=True)
            for channel in self._channels.values():
                await channel.close()

    async def generate(self, request: Request) -> AsyncIterator[Progress]:
        """Yield the request's new tokens. Closing the iterator cancels the request. Raises `MusterError`."""
        queue: asyncio.Queue[Progress | MusterError] = asyncio.Queue()
        self._queues[request.id] = queue
        try:
            self._carry_out(self.state.start(request, self._now()))
            while True:
                item = await queue.get()
                if isinstance(item, MusterError):
                    raise item
                yield item
                if item.finish is not None:
                    return
        finally:
            del self._queues[request.id]
            self._carry_out(self.state.cancel(request.id))

    async def _follow(self, route: Route | None) -> None:
        current = self.state.epoch
        if route is None:
            if current is not None:
                self._carry_out(self.state.route_down(current, self._now(), "a machine left and none could replace it"))
            return
        if route.epoch == current:
            return
        try:
            channel = await self._dial(route.node)
        except MusterError as error:
            log.warning("route.unreachable", epoch=route.epoch, node=route.node[:12], reason=str(error))
            self._suspect(route.epoch)
            return
        outbox: asyncio.Queue[Submit | Cancel] = asyncio.Queue()
        self._channels[route.epoch], self._outboxes[route.epoch] = channel, outbox
        for work in (self._send_forever(route.epoch, channel, outbox), self._receive_forever(route.epoch, channel)):
            task = asyncio.create_task(work)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._carry_out(self.state.route_up(route.epoch, self._now()))
        if current is not None:
            self._forget_when_sent(current)

    def _forget_when_sent(self, epoch: int) -> None:
        """Close the channel of a pipeline that was replaced, once the cancellations have gone out."""

        async def forget() -> None:
            await asyncio.sleep(1.0)
            await self._drop(epoch)

        task = asyncio.create_task(forget())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send_forever(self, epoch: int, channel: Channel, outbox: asyncio.Queue[Submit | Cancel]) -> None:
        try:
            while True:
                await channel.send(await outbox.get())
        except (LinkDown, ProtocolViolation) as error:
            await self._lost(epoch, error)

    async def _receive_forever(self, epoch: int, channel: Channel) -> None:
        try:
            while True:
                message, _ = await channel.receive()
                if isinstance(message, Tokens):
                    for progress in message.progress:
                        self._carry_out(self.state.progressed(epoch, progress, self._now()))
                elif isinstance(message, Failed):
                    error = from_code(message.code, message.reason)
                    now = self._now()
                    self._carry_out(self.state.failed(epoch, message.request_id, error, message.retry, now))
                else:
                    raise ProtocolViolation(f"a first stage sent {type(message).__name__}, which only others may send.")
        except (LinkDown, ProtocolViolation) as error:
            await self._lost(epoch, error)

    async def _lost(self, epoch: int, error: MusterError) -> None:
        if await self._drop(epoch):
            log.warning("pipeline.lost", epoch=epoch, reason=str(error), live=len(self.state.live))
            self._suspect(epoch)
            self._carry_out(self.state.route_down(epoch, self._now(), str(error)))

    async def _drop(self, epoch: int) -> bool:
        channel = self._channels.pop(epoch, None)
        self._outboxes.pop(epoch, None)
        if channel is not None:
            await channel.close()
        return channel is not None

    async def _tick_forever(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._carry_out(self.state.tick(self._now()))

    def _carry_out(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case SubmitTo(epoch, request):
                    self._post(epoch, Submit(epoch=epoch, request=request))
                case CancelAt(epoch, request_id):
                    self._post(epoch, Cancel(request_id=request_id))
                case Deliver(progress):
                    self._hand_over(progress.request_id, progress)
                case End(request_id, error):
                    self._hand_over(request_id, error)
                case Suspect(epoch):
                    log.warning("pipeline.silent", epoch=epoch)
                    self._suspect(epoch)

    def _post(self, epoch: int, message: Submit | Cancel) -> None:
        if outbox := self._outboxes.get(epoch):
            outbox.put_nowait(message)

    def _hand_over(self, request_id: str, item: Progress | MusterError) -> None:
        if queue := self._queues.get(request_id):
            queue.put_nowait(item)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
