"""A file with all that was signed of one request: JSON that anybody can read, and check without the pool.

    {"muster_receipts": 1, "request": ..., "model": ..., "rings": [...], "prompt": [...], "answer": [...], ...}

Bytes are base64. Everything in it is a claim until it is checked.
"""

from collections.abc import Sequence

import msgspec

from muster.errors import InvalidRequest, ProtocolViolation
from muster.spec.answer import Answer
from muster.spec.pool import NodeId
from muster.spec.receipt import MAX_LAYERS, receipt_name
from muster.spec.sampling import Sampling
from muster.verify.receipts import ReceiptRing, RequestReceipts
from muster.wire.messages.receipts import SignedRoot

VERSION = 1
MAX_FILE_BYTES = 256 * 2**20
MAX_RINGS, MAX_STAGES = 256, 1024


class RingPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of one placement: who held what, and what they signed."""

    epoch: int
    head: NodeId
    nodes: tuple[NodeId, ...]
    cuts: tuple[int, ...]
    manifest: str
    dtype: str
    protocol: int
    sent: tuple[SignedRoot, ...]
    received: tuple[SignedRoot, ...]


class ReceiptFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    muster_receipts: int
    request: str
    model: str
    rings: tuple[RingPart, ...]
    prompt: tuple[int, ...] = ()
    """Tokens; empty where the head has forgotten them."""
    answer: tuple[int, ...] = ()
    sampling: Sampling | None = None

    @property
    def tokens(self) -> tuple[int, ...] | None:
        """Of prompt and answer, where they are known."""
        return (*self.prompt, *self.answer) if self.prompt else None


def written(request: str, receipts: RequestReceipts, model: str, answer: Answer | None) -> bytes:
    rings = []
    for epoch, ring in sorted(receipts.rings.items()):
        here = [boundary for (of, _), boundary in sorted(receipts.boundaries.items()) if of == epoch]
        sent, received = (tuple(one for b in here for one in getattr(b, role)) for role in ("sent", "received"))
        rings.append(
            RingPart(epoch, ring.head, ring.nodes, ring.cuts, ring.manifest, ring.dtype, ring.protocol, sent, received)
        )
    file = ReceiptFile(VERSION, request, model, tuple(rings))
    if answer is not None:
        file = msgspec.structs.replace(
            file, prompt=answer.request.prompt, answer=answer.tokens, sampling=answer.request.sampling
        )
    return msgspec.json.encode(file)


def read(data: bytes) -> ReceiptFile:
    """Raises `InvalidRequest` for what is no such file."""
    if len(data) > MAX_FILE_BYTES:
        raise InvalidRequest(f"The file has {len(data)} bytes where {MAX_FILE_BYTES} are allowed.", "file")
    try:
        file = msgspec.json.decode(data, type=ReceiptFile)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(
            f"This is no file of receipts ({error}); write one with `muster receipts`.", "file"
        ) from None
    if file.muster_receipts != VERSION:
        raise InvalidRequest(
            f"The file is of version {file.muster_receipts} where this Muster reads version {VERSION}; update it.",
            "file",
        )
    for ring in file.rings:
        _check_ring(ring)
    if len(file.rings) > MAX_RINGS or len({ring.epoch for ring in file.rings}) < len(file.rings):
        raise InvalidRequest("The file names a placement twice, or hundreds of them; it was made up.", "rings")
    return file


def _check_ring(ring: RingPart) -> None:
    grows = all(low < high for low, high in zip(ring.cuts, ring.cuts[1:], strict=False))
    fits = 0 < len(ring.nodes) <= MAX_STAGES and len(ring.cuts) == len(ring.nodes) + 1
    if not fits or not grows or ring.cuts[0] != 0 or ring.cuts[-1] > MAX_LAYERS:
        raise InvalidRequest(f"The placement of epoch {ring.epoch} in the file has stages that cannot be.", "rings")


def checked(file: ReceiptFile) -> RequestReceipts:
    """All of it put together again. Raises `ProtocolViolation` for the first thing that is forged or does not fit."""
    receipts = RequestReceipts(receipt_name(file.request))
    for part in file.rings:
        ring = ReceiptRing(part.epoch, part.head, part.nodes, part.cuts, part.manifest, part.dtype, part.protocol)
        for one, node in _by(ring, (*part.sent, *part.received)):
            receipts.add(ring, node, one)
    return receipts


def _by(ring: ReceiptRing, every: Sequence[SignedRoot]) -> list[tuple[SignedRoot, NodeId]]:
    """With whose signature each must bear."""
    found = []
    for one in every:
        if one.layer not in ring.cuts[1:]:
            raise ProtocolViolation(f"A receipt is of a boundary before layer {one.layer}, which this ring has not.")
        sender, receiver = ring.ends(one.layer)
        found.append((one, receiver if one.received else sender))
    return found
