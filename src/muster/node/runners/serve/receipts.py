"""What a stage of a ring signs of what it got and gave. No step waits for it: while a step is served its rows are only
noted, and twice a second a thread beside the steps makes blocks of them, signs and sends.

    stage before  ── Receipts (roots and cuts) ──>  this stage  ── the same ──>  stage behind
                                                        └── Receipts (with digests and values) ──>  head

What a link packs with loss is not covered: its two ends do not hold the same rows.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import structlog
import torch
from torch import Tensor

from muster.errors import ProtocolViolation
from muster.link.identity import Identity
from muster.node.runners.serve.ring import RingPlace
from muster.spec.pool import NodeId
from muster.spec.receipt import Commitment, Role
from muster.verify.book import BoundaryBook, RowSpan, Unsigned
from muster.verify.fingerprint import Words, key_of, places, taken
from muster.verify.signing import signed
from muster.wire.frame import Payload
from muster.wire.messages.base import PROTOCOL, TensorHeader
from muster.wire.messages.generate import Row, Step, StepDone
from muster.wire.messages.receipts import MAX_MESSAGE_BYTES, MAX_RECEIPTS, Receipts, SignedRoot

log = structlog.get_logger()
EVERY_S = 0.5
MAX_HEARD = 4096
"""Roots of the stage before that wait to be held against what came."""
PATIENCE = 60
"""Looks for which such a root waits: its rows may still lie in the inbox."""
RAW = "raw"


@dataclass(frozen=True, slots=True)
class Signer:
    """Who signs what of which model."""

    identity: Identity
    manifest: str
    dtype: str
    first: int
    last: int
    """Layers [first, last) are here."""
    behind: NodeId
    """The stage that gets what this one computed; behind the last layer the head."""
    tell: Callable[[Receipts], None]
    """To the head; never waits."""


@dataclass(slots=True)
class _Heard:
    root: SignedRoot
    tries: int = 0


@dataclass(slots=True)
class RingReceipts:
    """Of one stage. All calls but `values` come from the event loop."""

    place: RingPlace
    signer: Signer
    _gave: BoundaryBook = field(init=False)
    _got: BoundaryBook | None = field(init=False)
    _heard: deque[_Heard] = field(default_factory=lambda: deque(maxlen=MAX_HEARD))
    _keys: dict[int, int] = field(default_factory=dict)
    """By slot, behind the last layer."""
    _noted: bool = False
    _task: "asyncio.Task[None] | None" = None

    def __post_init__(self) -> None:
        self._gave = BoundaryBook(self.signer.last)
        self._got = BoundaryBook(self.signer.first) if self.signer.first else None

    def note(self, step: Step, came: Payload | None, result: Step | StepDone, went: Payload, values: bytes) -> None:
        """A step has run here: `came` is what it brought, `went` what left; of tokens also the `values` beside them."""
        for slot, name in step.named:
            for book in filter(None, (self._gave, self._got)):
                book.begin(slot, name.hex())
        if self._got is not None and came is not None:
            _saw(self._got, _spans(step.rows), step.hidden, came)
        if isinstance(result, Step):
            _saw(self._gave, _spans(step.rows), result.hidden, went)
        elif result.sampled and values:
            tokens = np.array([one.token for one in result.sampled], dtype=np.int32).tobytes()
            self._gave.saw(_sampled(step.rows, result), tokens, "int32", values)
        self._noted = True
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._look())

    def values(self, step: Step, done: StepDone, logits_SV: Tensor) -> bytes:
        """Of the logits that chose each token of this step. Called where these are, before the next step."""
        for slot, name in step.named:
            self._keys[slot] = key_of(name.hex(), self.signer.last)
        spans = _sampled(step.rows, done)
        counts = [span.end - span.start for span in spans]
        if not sum(counts):
            return b""
        keys: Words = np.repeat(np.array([self._keys.get(span.slot, 0) for span in spans], dtype=np.uint64), counts)
        positions = np.concatenate([np.arange(span.start, span.end) for span in spans])
        rows = _places_in_logits(step.rows, counts)
        wanted_SV = logits_SV if len(rows) == len(logits_SV) else logits_SV[rows]
        return taken(wanted_SV, places(keys[:, None], positions, logits_SV.shape[1]))

    def heard(self, message: Receipts) -> None:
        """From the stage before. Raises `ProtocolViolation` for what is no receipt of this boundary."""
        if len(message.signed) > MAX_RECEIPTS:
            raise ProtocolViolation(f"A message holds {len(message.signed)} receipts where {MAX_RECEIPTS} are allowed.")
        self._heard += [_Heard(one) for one in message.signed if not one.received]

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _look(self) -> None:
        """Until all that is sure is signed."""
        goes_on = True
        while goes_on:
            await asyncio.sleep(EVERY_S)
            noted, self._noted = self._noted, False
            heard = [self._heard.popleft() for _ in range(len(self._heard))]
            gave, got = await asyncio.to_thread(self._sign, heard)
            self._send(gave, got)
            goes_on = bool(noted or gave or got or self._heard or self._noted)

    def _sign(self, heard: Sequence[_Heard]) -> tuple[list[SignedRoot], list[SignedRoot]]:
        gave = [self._signed("sent", one) for one in self._gave.due()]
        got = []
        for waiting in sorted(heard, key=lambda one: one.root.start):  # those that waited come before those behind them
            root = waiting.root
            agreed = self._got.agree(root.request.hex(), root.start, root.counts) if self._got is not None else None
            if agreed is not None:
                got.append(self._signed("received", agreed))
            elif waiting.tries < PATIENCE:
                waiting.tries += 1
                self._heard.append(waiting)
        return gave, got

    def _signed(self, role: Role, one: Unsigned) -> SignedRoot:
        signer, me, sent = self.signer, self.signer.identity.node_id, role == "sent"
        commitment = signed(
            Commitment(
                role=role,
                sender=me if sent else self.place.previous,
                receiver=signer.behind if sent else me,
                request=one.request,
                epoch=self.place.epoch,
                layer=signer.last if sent else signer.first,
                start=one.start,
                end=one.end,
                manifest=signer.manifest,
                dtype=signer.dtype,
                root=one.root,
                at_s=time.time(),
                protocol=PROTOCOL,
            ),
            signer.identity,
        )
        return SignedRoot(
            received=not sent,
            request=bytes.fromhex(one.request),
            layer=commitment.layer,
            start=one.start,
            counts=tuple(block.count for block in one.blocks),
            root=one.root,
            at_s=commitment.at_s,
            signature=commitment.signature,
            digests=b"".join(block.digest for block in one.blocks) if sent else b"",
            values=b"".join(block.values for block in one.blocks) if sent else b"",
        )

    def _send(self, gave: Sequence[SignedRoot], got: Sequence[SignedRoot]) -> None:
        for some in _cut([*gave, *got]):
            self.signer.tell(Receipts(epoch=self.place.epoch, signed=some))
        if self.place.send is not None and not self.place.is_last:
            for some in _cut([_bare(one) for one in gave]):
                self.place.send(Receipts(epoch=self.place.epoch, signed=some), b"")


class Watched:
    """The last stage of a ring, whose logits are kept until the next step. Implements `RunsLayers`."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.logits_SV: Tensor = torch.empty(0, 0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def run(self, batch: Any, cache: Any, x: Tensor, look: Callable[[Tensor], None]) -> Tensor:
        out: Tensor = self._inner.run(batch, cache, x, look)
        self.logits_SV = out
        return out


def _saw(book: BoundaryBook, spans: Sequence[RowSpan], header: TensorHeader | None, payload: Payload) -> None:
    if header is not None and header.codec == RAW:
        book.saw(spans, payload, header.dtype)


def _spans(rows: Iterable[Row]) -> list[RowSpan]:
    return [
        RowSpan(row.slot, row.start, row.start + row.length, row.start + row.length - max(0, row.samples - 1))
        for row in rows
    ]


def _sampled(rows: Iterable[Row], done: StepDone) -> list[RowSpan]:
    """Of the tokens that were chosen: each stands at the position of the row that chose it."""
    found, sampling = [], [row for row in rows if row.samples]
    for row, count in zip(sampling, done.accepted or [1] * len(sampling), strict=True):
        first = row.start + row.length - row.samples
        found.append(RowSpan(row.slot, first, first + count, first + count))
    return found


def _places_in_logits(rows: Iterable[Row], counts: Sequence[int]) -> list[int]:
    found: list[int] = []
    first = 0
    for row, count in zip((row for row in rows if row.samples), counts, strict=True):
        found += range(first, first + count)
        first += row.samples
    return found


def _bare(one: SignedRoot) -> SignedRoot:
    """The other end has digests and values of its own."""
    return SignedRoot(
        one.received, one.request, one.layer, one.start, one.counts, one.root, one.at_s, one.signature
    )  # fmt: skip


def _cut(every: Iterable[SignedRoot]) -> Iterable[tuple[SignedRoot, ...]]:
    some: list[SignedRoot] = []
    nbytes = 0
    for one in every:
        size = len(one.digests) + len(one.values)
        if some and (len(some) == MAX_RECEIPTS or nbytes + size > MAX_MESSAGE_BYTES):
            yield tuple(some)
            some, nbytes = [], 0
        some.append(one)
        nbytes += size
    if some:
        yield tuple(some)
