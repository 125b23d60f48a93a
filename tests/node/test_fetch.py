"""Weights by digest, and who interrupts them."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from muster.model.blobs import BlobStore
from muster.node.fetch import RANGE_BYTES, Wanted, fetch_blobs
from muster.wire.messages.transfer import Blob, FetchBlob

pytestmark = pytest.mark.anyio
DATA = bytes(range(256)) * (3 * RANGE_BYTES // 256)
WANTED = [Wanted(blake3(DATA).hexdigest(), len(DATA))]


class Head:
    """The head's end of a bulk channel, without a wire."""

    def __init__(self) -> None:
        self._answers: asyncio.Queue[tuple[Blob, memoryview]] = asyncio.Queue()

    async def send(self, message: FetchBlob, payload: Any = b"") -> None:
        data = memoryview(DATA)[message.offset : message.offset + message.length]
        await self._answers.put((Blob(digest=message.digest, offset=message.offset, total_bytes=len(DATA)), data))

    async def receive(self) -> tuple[Blob, memoryview]:
        return await self._answers.get()


async def test_a_load_that_follows_a_cancelled_one_goes_on_where_that_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = BlobStore(tmp_path)
    write = store.write_range

    def slow(*arguments: Any) -> None:
        time.sleep(0.1)  # in a thread
        write(*arguments)

    monkeypatch.setattr(store, "write_range", slow)
    first = asyncio.create_task(fetch_blobs(Head(), store, WANTED))  # type: ignore[arg-type]
    await asyncio.sleep(0.05)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert store.partial_size(WANTED[0].digest) == RANGE_BYTES
    came: list[int] = []
    await fetch_blobs(Head(), store, WANTED, came.append)  # type: ignore[arg-type]
    assert sum(came) == len(DATA) - RANGE_BYTES
    assert store.read(WANTED[0].digest) == DATA
