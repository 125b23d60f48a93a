"""The head's side of a bulk channel: hands out ranges of blobs, answers probes. Knows nothing of models."""

import asyncio
from collections.abc import Callable

from muster.errors import LinkDown, ProtocolViolation
from muster.link.base import Channel
from muster.wire.messages.every import AnyMessage
from muster.wire.messages.transfer import Blob, BlobUnknown, FetchBlob, Ping, Pong

ReadBlob = Callable[[str, int, int], tuple[bytes, int] | None]
"""(digest, offset, length) -> the bytes and the size of the whole blob, or None for an unknown digest. May block."""

MAX_BYTES = 8 * 2**20
"""In one answer, whatever was asked for."""


async def serve_bulk(channel: Channel, read_blob: ReadBlob) -> None:
    """Answer until the channel ends. Raises `ProtocolViolation` on what does not belong here."""
    try:
        while True:
            message, _ = await channel.receive()
            await _answer(channel, message, read_blob)
    except LinkDown:
        pass
    finally:
        await channel.close()


async def _answer(channel: Channel, message: AnyMessage, read_blob: ReadBlob) -> None:
    match message:
        case Ping(token=token):
            await channel.send(Pong(token=token))
        case FetchBlob(digest=digest, offset=offset, length=length):
            if len(digest) != 64 or not digest.isalnum() or offset < 0 or length <= 0:
                raise ProtocolViolation("A node asked for a blob that cannot exist; update Muster on it.")
            found = await asyncio.to_thread(read_blob, digest, offset, min(length, MAX_BYTES))
            if found is None:
                await channel.send(BlobUnknown(digest=digest))
                return
            data, total = found
            await channel.send(Blob(digest=digest, offset=offset, total_bytes=total), data)
        case _:
            raise ProtocolViolation(f"{type(message).__name__} does not belong on a bulk channel; update the node.")
