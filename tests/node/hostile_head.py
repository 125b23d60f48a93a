"""A head that says what it likes to one real worker, over an in-memory link."""

import asyncio
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from blake3 import blake3

from muster.link.base import Channel, Connection
from muster.link.memory import MemoryNetwork
from muster.node.lending import WorkerOptions
from muster.node.worker import HeadDoor, Worker
from muster.spec.plan import Pipeline, ServeSettings, Stage
from muster.spec.pool import Device
from muster.wire.messages.every import AnyMessage
from muster.wire.messages.membership import Hello, Welcome
from muster.wire.messages.placement import Assign
from muster.wire.messages.transfer import Blob, BlobUnknown, FetchBlob, Ping, Pong

HEAD, NODE = "0" * 64, "1" * 64
MEMORY_BYTES = 10**8


def assignment(manifest: bytes, **changes: Any) -> Assign:
    fields: dict[str, Any] = {
        "epoch": 1,
        "model": "m",
        "manifest": blake3(manifest).hexdigest(),
        "dtype": "float32",
        "index": 0,
        "job": "m",
        "peers": (),
    }
    settings = {"num_pages": 8, "page_size": 16, "num_microbatches": 1, "prefill_tokens": 512}
    settings |= {name: changes.pop(name) for name in list(changes) if name in settings}
    fields["pipeline"] = Pipeline(changes.pop("stages", (Stage(NODE, 0, 2),)), ServeSettings(**settings))
    return Assign(**fields | changes)


class HostileHead:
    """`async with HostileHead(folder) as head: await head.assign(...); await head.hears(LoadFailed)`"""

    def __init__(self, folder: Path) -> None:
        network = MemoryNetwork()
        self._endpoint, node = network.endpoint(HEAD), network.endpoint(NODE)
        options = WorkerOptions(name="victim", cache_dir=folder, memory_cap_bytes=MEMORY_BYTES)
        door = HeadDoor(self._endpoint.address, lambda node: b"")
        self.worker = Worker(node, door, options, measure=lambda options: Device("cpu", "fake", MEMORY_BYTES))
        self.blobs: dict[str, bytes] = {}
        self.given_bytes = 0
        """Of all blobs but manifests."""
        self.lie: dict[str, Any] = {}
        """Changes to every `Blob`; `data` replaces the payload."""
        self._manifests: set[str] = set()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self.running = asyncio.create_task(self.worker.run())
        self.connection: Connection = await self._endpoint.accept()
        _, self.control = await self.connection.accept()
        assert isinstance((await self.control.receive())[0], Hello)
        await self.control.send(Welcome(heartbeat_s=0.1, lease_s=60.0, model="m"))
        self._tasks.append(asyncio.create_task(self._accept()))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in (*self._tasks, self.running):
            task.cancel()
        await asyncio.gather(*self._tasks, self.running, return_exceptions=True)
        await self._endpoint.close()

    async def hears(self, kind: type[AnyMessage]) -> Any:
        """The next message of this kind; the worker must not have stopped."""
        while True:
            receiving = asyncio.create_task(self.control.receive())
            await asyncio.wait([receiving, self.running], return_when=asyncio.FIRST_COMPLETED)
            assert not self.running.done(), self.running.exception()
            message, _ = await receiving
            if isinstance(message, kind):
                return message

    async def assign(self, manifest: bytes, **changes: Any) -> None:
        message = assignment(manifest, **changes)
        self.blobs[message.manifest] = manifest
        self._manifests.add(message.manifest)
        await self.control.send(message)

    async def _accept(self) -> None:
        while True:
            name, channel = await self.connection.accept()
            if name == "bulk":
                self._tasks.append(asyncio.create_task(self._serve(channel)))

    async def _serve(self, channel: Channel) -> None:
        while True:
            message, _ = await channel.receive()
            if isinstance(message, Ping):
                await channel.send(Pong(token=message.token))
            if isinstance(message, FetchBlob):
                await self._answer(channel, message)

    async def _answer(self, channel: Channel, message: FetchBlob) -> None:
        blob = self.blobs.get(message.digest)
        if blob is None:
            await channel.send(BlobUnknown(digest=message.digest))
            return
        data = blob[message.offset : message.offset + message.length]
        self.given_bytes += 0 if message.digest in self._manifests else len(data)
        fields = {"digest": message.digest, "offset": message.offset, "total_bytes": len(blob)} | self.lie
        data = fields.pop("data", data)
        await channel.send(Blob(**fields), data)
