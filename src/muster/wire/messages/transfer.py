"""Bulk channel: weights by digest, probes of a link, and frames that the head passes on."""

from muster.wire.messages.base import Message


class FetchBlob(Message, frozen=True, tag="fetch_blob"):
    """Send [offset, offset + length) of the blob with this BLAKE3 digest (hex)."""

    digest: str
    offset: int
    length: int


class Blob(Message, frozen=True, tag="blob"):
    """The payload is the range asked for; `total_bytes` is the size of the whole blob."""

    digest: str
    offset: int
    total_bytes: int


class BlobUnknown(Message, frozen=True, tag="blob_unknown"):
    digest: str


class Ping(Message, frozen=True, tag="ping"):
    """Answered at once with the same `token`; a payload measures bandwidth."""

    token: int


class Pong(Message, frozen=True, tag="pong"):
    token: int


class Relay(Message, frozen=True, tag="relay"):
    """Passed on by the head between two nodes that cannot dial each other. The payload is a whole frame."""

    source: str
    target: str
    channel: str
