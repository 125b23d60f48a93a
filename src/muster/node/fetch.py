"""Weights by digest: from this machine's store, else from the head over the bulk channel. Knows nothing of layers.

A blob that was interrupted goes on where it stopped; a blob whose BLAKE3 does not match is thrown away and named.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from muster.errors import ProtocolViolation, WeightsInvalid
from muster.link.base import Channel
from muster.model.blobs import BlobStore
from muster.wire.messages.transfer import Blob, BlobUnknown, FetchBlob

RANGE_BYTES = 2 * 2**20
WINDOW = 4
"""Ranges asked for ahead of time, so that a slow link is never idle for a round trip."""


@dataclass(frozen=True, slots=True)
class Wanted:
    digest: str
    nbytes: int | None
    """None where only the sender knows (the manifest)."""


MANIFEST_LIMIT_BYTES = 64 * 2**20


async def fetch_blobs(
    bulk: Channel, store: BlobStore, wanted: Sequence[Wanted], progress: Callable[[int], None] = lambda done: None
) -> None:
    """Bring every wanted blob into the store. `progress` gets the bytes added since the last call."""
    for blob in wanted:
        if not store.has(blob.digest):
            await _fetch(bulk, store, blob, progress)


async def _fetch(bulk: Channel, store: BlobStore, blob: Wanted, progress: Callable[[int], None]) -> None:
    have = store.partial_size(blob.digest)
    async for data in _ranges(bulk, blob, have):
        await to_the_end(asyncio.to_thread(store.write_range, blob.digest, have, data))
        have += len(data)
        progress(len(data))
    await asyncio.to_thread(store.finish, blob.digest)


async def to_the_end(writing: Coroutine[Any, Any, None]) -> None:
    """A thread cannot be stopped: who is cancelled waits for it, or the next load would find it still writing."""
    task = asyncio.ensure_future(writing)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


async def _ranges(bulk: Channel, blob: Wanted, start: int) -> AsyncIterator[memoryview]:
    """The ranges from `start` to the end, in order, `WINDOW` of them under way at once."""
    total = blob.nbytes
    asked = received = start
    pending = 0
    while total is None or received < total:
        while pending < WINDOW and (asked < total if total is not None else pending == 0):
            await bulk.send(FetchBlob(digest=blob.digest, offset=asked, length=RANGE_BYTES))
            asked += RANGE_BYTES
            pending += 1
        message, data = await bulk.receive()
        pending -= 1
        total = _checked_total(message, blob, received, len(data), total)
        received += len(data)
        yield data


def _checked_total(message: object, blob: Wanted, expected_offset: int, length: int, total: int | None) -> int:
    if isinstance(message, BlobUnknown):
        raise WeightsInvalid(
            f"The head no longer has blob {blob.digest[:16]}… of the model; its files changed: restart `muster serve`."
        )
    if not isinstance(message, Blob) or message.digest != blob.digest or message.offset != expected_offset:
        raise ProtocolViolation("The head answered a request for weights with something else; update the older side.")
    limit = total if total is not None else MANIFEST_LIMIT_BYTES
    if message.total_bytes > limit or (total is not None and message.total_bytes != total):
        raise ProtocolViolation(f"Blob {blob.digest[:16]}… has {message.total_bytes} bytes, not the {limit} announced.")
    if length == 0 or expected_offset + length > message.total_bytes:
        raise ProtocolViolation(f"The head sent {length} bytes at {expected_offset} of blob {blob.digest[:16]}….")
    return message.total_bytes
