"""The asyncio shell around `ClientState`: one queue per request, one data channel per pipeline.

Knows nothing of HTTP, nor of how a pipeline was chosen: the broker's routes come in through `watch_routes`, and
`dial` turns a node id into a channel.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, Protocol

import structlog

from muster.client.state import CancelAt, ClientState, Command, Deliver, End, Patience, SubmitTo, Suspect
from muster.errors import LinkDown, MusterError, ProtocolViolation, from_code
from muster.link.base import Channel
from muster.spec.request import Progress, Request
from muster.wire.messages.generate import Cancel, Failed, Submit, Tokens

log = structlog.get_logger()
TICK_S = 0.5
DIAL_S = 10.0
"""How long a first stage may take to let us in."""
LONGEST_REASON = 500
"""Characters of a machine's own words that a client gets to read."""
LAST_WORDS_S = 1.0
"""What was said on a channel has left by then."""
Outbox = asyncio.Queue[Submit | Cancel | None]
"""None: nothing comes any more."""
Suspicion = Callable[[int, bool], None]
"""(epoch, whether its first stage cannot be reached): told when a pipeline should be looked at."""


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
        suspect: Suspicion = lambda epoch, unreachable: None,
        patience: Patience | None = None,
        *,
        accuse: Callable[[str, str], None] = lambda node, reason: None,
        vocab_size: int = 2**31,
    ) -> None:
        """`dial` gives a channel to a node. `accuse` is told of a node that breaks the rules, and how."""
        self.state = ClientState(patience or Patience(), vocab_size)
        self._dial = dial
        self._suspect = suspect
        self._accuse = accuse
        self._nodes: dict[int, str] = {}
        self._queues: dict[str, asyncio.Queue[Progress | MusterError]] = {}
        self._channels: dict[int, Channel] = {}
        self._outboxes: dict[int, Outbox] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._bug: asyncio.Future[None] | None = None
        """Never done, unless one of the tasks fails in a way that nobody thought of."""

    async def run(self, routes: AsyncIterator[Route | None]) -> None:
        """Follow the broker's routes until cancelled. Raises only if there is a bug here: nobody is served then."""
        self._bug = asyncio.get_running_loop().create_future()
        self._spawn(self._tick_forever())
        self._spawn(self._follow_all(routes))
        try:
            await self._bug
        finally:
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for epoch in list(self._channels):
                await self._drop(epoch)

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
            self._carry_out(self.state.cancel(request.id, self._now()))

    async def _follow_all(self, routes: AsyncIterator[Route | None]) -> None:
        async for route in routes:
            await self._follow(route)

    async def _follow(self, route: Route | None) -> None:
        current = self.state.epoch
        if route is None:
            if current is not None:
                self._carry_out(self.state.route_down(current, self._now(), "a machine left and none could replace it"))
                self._forget_when_sent(current)
            return
        if route.epoch == current:
            return
        try:
            channel = await self._reach(route.node)
        except MusterError as error:
            log.warning("route.unreachable", epoch=route.epoch, node=route.node[:12], reason=str(error))
            self._suspect(route.epoch, True)
            return
        outbox: Outbox = asyncio.Queue()
        self._channels[route.epoch], self._outboxes[route.epoch] = channel, outbox
        self._nodes[route.epoch] = route.node
        self._spawn(self._send_forever(route.epoch, channel, outbox))
        self._spawn(self._receive_forever(route.epoch, channel))
        self._carry_out(self.state.route_up(route.epoch, self._now()))
        if current is not None:
            self._forget_when_sent(current)

    async def _reach(self, node: str) -> Channel:
        """Raises `MusterError`, also where a node that is connected takes no channel: every route waits for this."""
        try:
            async with asyncio.timeout(DIAL_S):
                return await self._dial(node)
        except TimeoutError:
            reason = f"Node {node[:10]} took no channel within {DIAL_S:.0f} s; restart it."
            self._accuse(node, reason)
            raise LinkDown(reason) from None

    def _forget_when_sent(self, epoch: int) -> None:
        """Close the channel of a pipeline that was replaced, once the cancellations have gone out."""

        async def forget() -> None:
            await asyncio.sleep(LAST_WORDS_S)
            await self._drop(epoch)

        self._spawn(forget())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)

    def _task_done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and self._bug is not None and not self._bug.done():
            self._bug.set_exception(error)

    async def _send_forever(self, epoch: int, channel: Channel, outbox: Outbox) -> None:
        try:
            while (message := await outbox.get()) is not None:
                await channel.send(message)
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
                    error = from_code(message.code, message.reason[:LONGEST_REASON])
                    now = self._now()
                    self._carry_out(self.state.failed(epoch, message.request_id, error, message.retry, now))
                else:
                    raise ProtocolViolation(f"a first stage sent {type(message).__name__}, which only others may send.")
        except (LinkDown, ProtocolViolation) as error:
            await self._lost(epoch, error)

    async def _lost(self, epoch: int, error: MusterError) -> None:
        node = self._nodes.get(epoch)
        if await self._drop(epoch):
            log.warning("pipeline.lost", epoch=epoch, reason=str(error), live=len(self.state.live))
            if node is not None and isinstance(error, ProtocolViolation):
                self._accuse(node, str(error))
            self._suspect(epoch, True)
            self._carry_out(self.state.route_down(epoch, self._now(), str(error)))

    async def _drop(self, epoch: int) -> bool:
        channel, outbox = self._channels.pop(epoch, None), self._outboxes.pop(epoch, None)
        self._nodes.pop(epoch, None)
        if outbox is not None:
            outbox.put_nowait(None)
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
                    self._post(epoch, Cancel(epoch=epoch, request_id=request_id))
                case Deliver(progress):
                    self._hand_over(progress.request_id, progress)
                case End(request_id, error):
                    self._hand_over(request_id, error)
                case Suspect(epoch):
                    log.warning("pipeline.silent", epoch=epoch)
                    self._suspect(epoch, False)

    def _post(self, epoch: int, message: Submit | Cancel) -> None:
        if outbox := self._outboxes.get(epoch):
            outbox.put_nowait(message)

    def _hand_over(self, request_id: str, item: Progress | MusterError) -> None:
        if queue := self._queues.get(request_id):
            queue.put_nowait(item)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
