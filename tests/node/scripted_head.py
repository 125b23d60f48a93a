"""A head that follows a test's script, with several real workers over links in memory."""

import asyncio
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from muster.link.base import Channel, Connection
from muster.link.memory import MemoryEndpoint, MemoryNetwork
from muster.node.lending import WorkerOptions
from muster.node.runners.base import Kinds
from muster.node.worker import HeadDoor, Worker
from muster.spec.plan import Pipeline
from muster.spec.pool import Device
from muster.wire.messages.every import AnyMessage
from muster.wire.messages.membership import Hello, Welcome
from muster.wire.messages.placement import Assign, Release
from muster.wire.messages.transfer import Ping, Pong

HEAD = "0" * 64
MEMORY_BYTES = 10**8


class Machine:
    """One worker, and the head's side of its connection."""

    def __init__(self, endpoint: MemoryEndpoint, worker: Worker) -> None:
        self.endpoint, self.worker = endpoint, worker
        self.id = endpoint.node_id
        self.running = asyncio.create_task(worker.run())
        self.heard: list[AnyMessage] = []
        self.connection: Connection
        self.control: Channel

    async def hears(self, kind: type[AnyMessage], **fields: Any) -> Any:
        """The first message of this kind with these fields that has not been asked for yet."""
        while True:
            for message in self.heard:
                if isinstance(message, kind) and all(getattr(message, name) == at for name, at in fields.items()):
                    self.heard.remove(message)
                    return message
            assert not self.running.done(), self.running.exception()
            await asyncio.sleep(0.005)


class ScriptedHead:
    """`async with ScriptedHead(folder, kinds) as head: machine = await head.add()`"""

    def __init__(self, folder: Path, kinds: Kinds) -> None:
        self._network = MemoryNetwork()
        self._endpoint = self._network.endpoint(HEAD)
        self._folder, self._kinds = folder, kinds
        self._tasks: list[asyncio.Task[None]] = []
        self.machines: list[Machine] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks = [*self._tasks, *(machine.running for machine in self.machines)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._endpoint.close()

    async def add(self) -> Machine:
        node = str(len(self.machines) + 1) * 64
        endpoint = self._network.endpoint(node)
        options = WorkerOptions(name=node[:1], cache_dir=self._folder / node[:1], memory_cap_bytes=MEMORY_BYTES)
        worker = Worker(
            endpoint,
            HeadDoor(self._endpoint.address, lambda node: b""),
            options,
            measure=lambda options: Device("cpu", "fake", MEMORY_BYTES),
            kinds=self._kinds,
        )
        machine = Machine(endpoint, worker)
        self.machines.append(machine)
        machine.connection = await self._endpoint.accept()
        _, machine.control = await machine.connection.accept()
        assert isinstance((await machine.control.receive())[0], Hello)
        await machine.control.send(Welcome(heartbeat_s=0.05, lease_s=60.0, model="m"))
        self._tasks += [asyncio.create_task(self._listen(machine)), asyncio.create_task(self._accept(machine))]
        return machine

    async def kill(self, machine: Machine) -> None:
        """As a power cut."""
        machine.endpoint.crash()
        machine.running.cancel()
        await asyncio.gather(machine.running, return_exceptions=True)

    async def assign(self, epoch: int, pipeline: Pipeline) -> None:
        """To every machine of the pipeline its stage."""
        holders = [next(one for one in self.machines if one.id == node) for node in pipeline.nodes()]
        peers = tuple(holder.endpoint.address for holder in holders)
        for index, holder in enumerate(holders):
            message = Assign(
                epoch=epoch,
                job="echoes",
                model="m",
                manifest="",
                dtype="float32",
                index=index,
                pipeline=pipeline,
                peers=peers,
            )
            await holder.control.send(message)

    async def release(self, epoch: int, *machines: Machine) -> None:
        for machine in machines:
            machine.heard.clear()  # heartbeats of before
            await machine.control.send(Release(epoch=epoch))

    async def _listen(self, machine: Machine) -> None:
        while True:
            machine.heard.append((await machine.control.receive())[0])

    async def _accept(self, machine: Machine) -> None:
        while True:
            _, channel = await machine.connection.accept()
            self._tasks.append(asyncio.create_task(self._answer_pings(channel)))

    @staticmethod
    async def _answer_pings(channel: Channel) -> None:
        while True:
            message, _ = await channel.receive()
            if isinstance(message, Ping):
                await channel.send(Pong(token=message.token))
