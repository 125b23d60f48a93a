"""The asyncio shell around `ClientState`: one queue per request, one data channel per pipeline.

Knows nothing of HTTP, nor of how a pipeline was chosen: the broker's routes come in through `watch_routes`, and
`dial` turns a node id into a channel.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol

import structlog

from muster.client.events import (
    CancelAt,
    Cancelled,
    Command,
    Deliver,
    End,
    Event,
    Progressed,
    RequestFailed,
    RouteDown,
    RouteLeft,
    RouteUp,
    Started,
    Stopping,
    SubmitTo,
    Suspect,
    Tick,
)
from muster.client.state import ClientState, Patience
from muster.errors import LinkDown, MusterError, ProtocolViolation, from_code
from muster.link.base import Channel
from muster.link.outbox import Outbox
from muster.link.tasks import Tasks
from muster.spec.capacity import Capacity
from muster.spec.request import Progress, Request
from muster.wire.messages.generate import Cancel, EpochUnknown, Failed, Submit, Tokens

log = structlog.get_logger()
TICK_S = 0.1
DIAL_S = 10.0
"""How long a first stage may take to let us in."""
MAX_REASON = 500
"""Characters of a machine's own words that a client gets to read."""
LAST_WORDS_S = 1.0
"""What was said on a channel has left by then."""
MAX_WAITING_REQUESTS = 100_000
"""Submitted and not yet sent. After a repair every request that is live is submitted at once."""
Suspicion = Callable[[int, bool], None]
"""(epoch, whether its first stage cannot be reached): told when a pipeline should be looked at."""


class Route(Protocol):
    """A ready pipeline: send requests to `node`, the one that holds its first stage."""

    @property
    def epoch(self) -> int: ...

    @property
    def node(self) -> str: ...

    @property
    def name(self) -> str:
        """Of the pipeline: the same in every epoch."""

    @property
    def capacity(self) -> Capacity: ...


@dataclass(frozen=True, slots=True)
class _Open:
    """The way to a pipeline."""

    name: str
    node: str
    channel: Channel
    outbox: Outbox


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
        self._inboxes: dict[str, _Inbox] = {}
        self._open: dict[int, _Open] = {}
        self._wanted: dict[int, Route] = {}
        """What the broker last announced."""
        self._tasks = Tasks()

    async def run(self, routes: AsyncIterator[Collection[Route]]) -> None:
        """Follow the broker's routes until cancelled: all that are up, at every change.

        Raises only if there is a bug here: nobody is served then.
        """
        self._tasks.spawn(self._tick_forever())
        self._tasks.spawn(self._follow_all(routes))
        try:
            await self._tasks.wait()
        finally:
            await self._tasks.cancel()
            for epoch in list(self._open):
                await self._open.pop(epoch).outbox.close()

    def stop(self) -> None:
        """Tell every client that waits for an answer, and every one that comes, that this head ends."""
        self._handle(Stopping())

    async def generate(self, request: Request) -> AsyncIterator[Progress]:
        """Yield the request's new tokens. Closing the iterator cancels the request. Raises `MusterError`."""
        inbox = self._inboxes[request.id] = _Inbox()
        try:
            self._handle(Started(request))
            while True:
                for item in joined(await inbox.take()):
                    if isinstance(item, MusterError):
                        raise item
                    yield item
                    if item.finish is not None:
                        return
        finally:
            del self._inboxes[request.id]
            self._handle(Cancelled(request.id))

    async def _follow_all(self, routes: AsyncIterator[Collection[Route]]) -> None:
        async for up in routes:
            self._follow({route.epoch: route for route in up})

    def _follow(self, up: dict[int, Route]) -> None:
        """Pipelines that are gone, then those that are new. One that has only changed goes on until it is reached."""
        new = [route for epoch, route in up.items() if epoch not in self._wanted]
        self._wanted = up
        names = {route.name for route in new}
        for epoch, way in list(self._open.items()):
            if epoch not in up and way.name not in names:
                self._handle(RouteDown(epoch, "a machine left and none could replace it"))
                self._leave(epoch)
        for route in new:
            self._tasks.spawn(self._begin(route))

    async def _begin(self, route: Route) -> None:
        try:
            channel = await self._reach(route.node)
        except MusterError as error:
            log.warning("route.unreachable", epoch=route.epoch, node=route.node[:12], reason=str(error))
            self._suspect(route.epoch, True)
            return
        if route.epoch not in self._wanted:  # it has come and gone meanwhile
            await channel.close()
            return
        before = [epoch for epoch, way in self._open.items() if way.name == route.name]
        self._enter(route, channel)
        self._handle(RouteUp(route.epoch, route.capacity))
        for epoch in before:
            self._handle(RouteLeft(epoch))
            self._leave(epoch)

    def _enter(self, route: Route, channel: Channel) -> None:
        def lost(error: MusterError) -> None:
            self._tasks.spawn(self._lost(route.epoch, error))

        outbox = Outbox(channel, lost, MAX_WAITING_REQUESTS)
        self._open[route.epoch] = _Open(route.name, route.node, channel, outbox)
        self._tasks.spawn(self._receive_forever(route.epoch, channel))

    async def _reach(self, node: str) -> Channel:
        """Raises `MusterError`, also where a node that is connected takes no channel: every route waits for this."""
        try:
            async with asyncio.timeout(DIAL_S):
                return await self._dial(node)
        except TimeoutError:
            reason = f"Node {node[:10]} took no channel within {DIAL_S:.0f} s; restart it."
            self._accuse(node, reason)
            raise LinkDown(reason) from None

    def _leave(self, epoch: int) -> None:
        """Close the channel of a pipeline that was replaced, once the cancellations have gone out."""
        if (left := self._open.pop(epoch, None)) is not None:
            self._tasks.spawn(self._close_when_sent(left.outbox))

    async def _close_when_sent(self, outbox: Outbox) -> None:
        outbox.end()
        with suppress(TimeoutError):
            await asyncio.wait_for(outbox.ended(), LAST_WORDS_S)
        await outbox.close()

    async def _receive_forever(self, epoch: int, channel: Channel) -> None:
        try:
            while True:
                message, _ = await channel.receive()
                match message:
                    case Tokens():
                        for progress in message.progress:
                            self._handle(Progressed(epoch, progress))
                    case Failed():
                        error = from_code(message.code, message.reason[:MAX_REASON])
                        self._handle(RequestFailed(epoch, message.request_id, error, message.retry))
                    case EpochUnknown(epoch=unknown) if unknown == epoch:
                        raise LinkDown("its first stage does not hold it any more")
                    case _:
                        kind = type(message).__name__
                        raise ProtocolViolation(f"A first stage sent {kind}, which only others may send; update it.")
        except (LinkDown, ProtocolViolation) as error:
            await self._lost(epoch, error)

    async def _lost(self, epoch: int, error: MusterError) -> None:
        """All that was submitted there must be submitted again, elsewhere."""
        lost = self._open.pop(epoch, None)
        if lost is None:
            return
        log.warning("pipeline.lost", epoch=epoch, reason=str(error), live=len(self.state.live))
        if isinstance(error, ProtocolViolation):
            self._accuse(lost.node, str(error))
        self._suspect(epoch, True)
        self._handle(RouteDown(epoch, str(error)))
        await lost.outbox.close()

    async def _tick_forever(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._handle(Tick())

    def _handle(self, event: Event) -> None:
        self._carry_out(self.state.handle(event, asyncio.get_running_loop().time()))

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
        if way := self._open.get(epoch):
            way.outbox.put(message)

    def _hand_over(self, request_id: str, item: Progress | MusterError) -> None:
        if inbox := self._inboxes.get(request_id):
            inbox.put(item)


class _Inbox:
    """What has come for one request and has not been read."""

    def __init__(self) -> None:
        self._items: list[Progress | MusterError] = []
        self._come = asyncio.Event()

    def put(self, item: Progress | MusterError) -> None:
        self._items.append(item)
        self._come.set()

    async def take(self) -> list[Progress | MusterError]:
        """All of it, once there is something."""
        await self._come.wait()
        self._come.clear()
        items, self._items = self._items, []
        return items


def joined(items: Sequence[Progress | MusterError]) -> list[Progress | MusterError]:
    """Tokens that follow each other as one piece: where whoever reads falls behind, each piece costs as much as many
    tokens, so it catches up."""
    if len(items) == 1:
        return list(items)
    pieces: list[Progress | MusterError] = []
    for item in items:
        last = pieces[-1] if pieces else None
        if isinstance(item, Progress) and isinstance(last, Progress) and item.scores is None:
            pieces[-1] = replace(last, tokens=last.tokens + item.tokens, finish=item.finish)
        else:
            pieces.append(item)
    return pieces
