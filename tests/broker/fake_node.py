"""A scripted node on a real (in-memory) link: says what a good node says, unless told otherwise."""

import asyncio
from contextlib import suppress

from muster.errors import LinkDown
from muster.link.memory import MemoryNetwork
from muster.spec.pool import NodeId
from muster.wire.messages.base import PROTOCOL
from muster.wire.messages.every import AnyMessage
from muster.wire.messages.membership import Goodbye, Heartbeat, Hello, StageVitals, Welcome
from muster.wire.messages.placement import Assign, Loaded, LoadProgress, Release
from muster.wire.ticket import Ticket, proof
from tests.broker.actors import measured

BEAT_S = 0.1


class FakeNode:
    def __init__(self, network: MemoryNetwork, node: NodeId, ticket: Ticket, memory_mib: float = 500, speed: float = 1):
        self.endpoint = network.endpoint(node)
        self.id, self.ticket = node, ticket
        self.claim = measured(memory_mib, speed)
        self.heard: list[AnyMessage] = []
        self.assigned: dict[int, Assign] = {}
        self.loaded: set[int] = set()
        self.loads = True
        """Whether it answers assignments."""
        self.beats = True
        self.streams = 1
        """That it says it schedules."""
        self.changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def join(self, protocol: int = PROTOCOL, secret: bytes | None = None) -> AnyMessage:
        """Dial and say hello; the head's answer."""
        self.connection = await self.endpoint.dial(self.ticket.address)
        self.control = await self.connection.open("control")
        await self.control.send(
            Hello(
                protocol=protocol,
                version="0.1.0",
                name=f"fake-{int(self.id, 16)}",
                region="here",
                proof=proof(secret or self.ticket.secret, self.id, self.ticket.head),
                address=self.endpoint.address,
            )
        )
        answer, _ = await self.control.receive()
        if isinstance(answer, Welcome):
            self.assigned.clear()
            self.loaded.clear()
            await self.control.send(self.claim)
            self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._beat())]
        return answer

    async def _listen(self) -> None:
        with suppress(LinkDown):
            while True:
                message, _ = await self.control.receive()
                self.heard.append(message)
                if isinstance(message, Assign):
                    self.assigned[message.epoch] = message
                    if self.loads:
                        await self.load(message.epoch)
                elif isinstance(message, Release):
                    self.assigned.pop(message.epoch, None)
                    self.loaded.discard(message.epoch)
                self._changed()
        self._changed()

    async def load(self, epoch: int) -> None:
        await self.control.send(LoadProgress(epoch=epoch, done_bytes=7, total_bytes=7))
        self.loaded.add(epoch)
        await self.control.send(Loaded(epoch=epoch))

    async def _beat(self) -> None:
        with suppress(LinkDown):
            while True:
                if self.beats:
                    stages = tuple(StageVitals(epoch, self.streams) for epoch in sorted(self.loaded))
                    await self.control.send(Heartbeat(free_memory_bytes=1, stages=stages))
                await asyncio.sleep(BEAT_S)

    def _changed(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    async def say_goodbye(self, drain: bool) -> None:
        await self.control.send(Goodbye(drain=drain))

    def crash(self) -> None:
        self.endpoint.crash()
        for task in self._tasks:
            task.cancel()

    async def leave(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.endpoint.close()
