"""What one end of a boundary keeps of every request until it is signed: rows as they travelled, by position.

    positions   0 ........ 96 | 96 .............. 150 | 150 ...
                  signed      |  sure, not yet signed | may still be taken back: they are guesses

Whoever sent signs first and says how it has cut the rows into blocks; whoever received signs the same cuts of the rows
that it got. While a step is served nothing is done here but to note it (`begin`, `saw`): that may be called from
another thread than the rest. Knows no machine and no clock.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from blake3 import blake3

from muster.spec.receipt import (
    BLOCKS_PER_SIGNATURE,
    MAX_BLOCKS,
    TOKENS_PER_BLOCK,
    VALUE_BYTES,
    VALUES_PER_TOKEN,
    ReceiptBlock,
)
from muster.verify.fingerprint import key_of, places, taken
from muster.verify.merkle import GrowingTree, block_leaf

Bytes = npt.NDArray[np.uint8]
SIZE = VALUE_BYTES * VALUES_PER_TOKEN
MAX_UNSIGNED_BYTES = 64 * 2**20
"""Of all rows that wait at one end of a boundary. Above it the request with the most is given up and stays unsigned:
its other end does not sign, or what it said was lost."""
MAX_LEFT = 256
"""Requests without a slot that wait for the other end."""


@dataclass(frozen=True, slots=True)
class RowSpan:
    """Rows of one request in a step: positions [start, end), of which those from `sure` on are guesses."""

    slot: int
    start: int
    end: int
    sure: int


@dataclass(frozen=True, slots=True)
class Unsigned:
    """Blocks that may be signed now, and the root that they lead to."""

    request: str
    blocks: tuple[ReceiptBlock, ...]
    root: bytes
    rows: tuple[Bytes, ...] = ()
    """The bytes of their rows, [n, bytes of a row] in sum."""

    @property
    def start(self) -> int:
        return self.blocks[0].start

    @property
    def end(self) -> int:
        return self.blocks[-1].end


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Rows that came at once."""

    start: int
    rows: Bytes
    dtype: torch.dtype
    values: Bytes | None = None
    """[n, SIZE] where they are not of the rows."""

    @property
    def end(self) -> int:
        return self.start + len(self.rows)

    def cut(self, start: int, end: int) -> "_Chunk":
        low, high = max(start, self.start) - self.start, end - self.start
        return _Chunk(
            self.start + low, self.rows[low:high], self.dtype, None if self.values is None else self.values[low:high]
        )


@dataclass(slots=True)
class _Page:
    """Of one request."""

    request: str
    key: int
    first: int = 0
    """Position of the first row that is not signed."""
    sure: int = 0
    touched: bool = True
    """Whether rows came since the last look."""
    chunks: list[_Chunk] = field(default_factory=list)
    tree: GrowingTree = field(default_factory=GrowingTree)
    given_up: bool = False

    @property
    def nbytes(self) -> int:
        return sum(one.rows.nbytes for one in self.chunks)

    def give_up(self) -> None:
        self.given_up, self.chunks, self.sure = True, [], self.first

    @property
    def end(self) -> int:
        return self.chunks[-1].end if self.chunks else self.first

    def put(self, span: RowSpan, chunk: _Chunk) -> None:
        if self.given_up:
            return
        if not self.first <= span.start <= self.end:
            self.first, self.tree, self.chunks = span.start, GrowingTree(), []
        while self.chunks and self.chunks[-1].start >= span.start:
            self.chunks.pop()
        if self.chunks and self.chunks[-1].end > span.start:
            self.chunks[-1] = self.chunks[-1].cut(self.chunks[-1].start, span.start)
        self.chunks.append(chunk)
        self.sure = max(self.first, min(span.sure, self.end))
        self.touched = True

    def sign(self, ends: Sequence[int]) -> Unsigned:
        """Blocks that end at these positions."""
        start, end = self.first, ends[-1]
        chunks = [one.cut(start, end) for one in self.chunks if one.start < end]
        self.chunks = [one.cut(end, one.end) for one in self.chunks if one.end > end]
        values = self._values(chunks)
        rows = chunks[0].rows if len(chunks) == 1 else np.concatenate([one.rows for one in chunks])
        blocks = []
        for low, high in zip([start, *ends[:-1]], ends, strict=True):
            digest = blake3(np.ascontiguousarray(rows[low - start : high - start]).data).digest()
            block = ReceiptBlock(low, high - low, digest, values[(low - start) * SIZE : (high - start) * SIZE])
            self.tree.add(block_leaf(block.start, block.count, block.digest, block.values))
            blocks.append(block)
        self.first = end
        return Unsigned(self.request, tuple(blocks), self.tree.root, tuple(one.rows for one in chunks))

    def _values(self, chunks: Sequence[_Chunk]) -> bytes:
        if chunks[0].values is not None:
            return b"".join(one.values.tobytes() for one in chunks if one.values is not None)
        rows = np.concatenate([one.rows for one in chunks])
        rows_TH = torch.from_numpy(rows).view(chunks[0].dtype)
        positions = np.arange(chunks[0].start, chunks[-1].end)
        return taken(rows_TH, places(self.key, positions, rows_TH.shape[1]))


class BoundaryBook:
    """One end of one boundary, for all requests of a placement."""

    def __init__(self, layer: int) -> None:
        self.layer = layer
        self._pages: dict[int, _Page] = {}
        self._left: deque[_Page] = deque(maxlen=MAX_LEFT)
        """Of requests whose slot has gone to others."""
        self._noted: deque[Callable[[], None]] = deque()

    def begin(self, slot: int, request: str) -> None:
        """The slot belongs to this request from the next step on."""
        self._noted.append(lambda: self._begin(slot, request))

    def saw(
        self, spans: Sequence[RowSpan], rows: bytes | bytearray | memoryview, dtype: str, values: bytes = b""
    ) -> None:
        """The bytes of all rows of a step, span after span. Slots that no request was named for are passed over.

        `values` where those are not to be taken from the rows, but from what else came of them.
        """
        self._noted.append(lambda: self._put(spans, rows, getattr(torch, dtype), values))

    def due(self) -> list[Unsigned]:
        """What whoever sent may sign: whole blocks once there are enough of them, and all that is sure of requests
        that nothing came of since the last call."""
        self._take_in()
        found = []
        while self._left:
            found += _signed(self._left[0], self._left[0].sure)
            self._left.popleft()
        for page in self._pages.values():
            whole = page.sure // TOKENS_PER_BLOCK * TOKENS_PER_BLOCK
            if not page.touched:
                found += _signed(page, page.sure)
            elif whole - page.first > (BLOCKS_PER_SIGNATURE - 1) * TOKENS_PER_BLOCK:
                found += _signed(page, whole)
            page.touched = False
        return found

    def agree(self, request: str, start: int, counts: Sequence[int]) -> Unsigned | None:
        """What whoever received has to sign of such blocks; None where it has not kept their rows."""
        self._take_in()
        pages = (*self._left, *self._pages.values())
        page = next((one for one in pages if one.request == request and one.first == start), None)
        for other in pages:
            if other.request == request and other.first < start < other.end and page is None:
                other.give_up()  # what was said of the rows before was lost, so no root here can be the same any more
        if page is None or not counts or min(counts) < 1 or start + sum(counts) > page.end:
            return None
        ends = start + np.cumsum(np.array(counts, dtype=np.int64))
        return page.sign([int(end) for end in ends])

    def _take_in(self) -> None:
        while self._noted:
            self._noted.popleft()()
        pages = (*self._left, *self._pages.values())
        while sum(page.nbytes for page in pages) > MAX_UNSIGNED_BYTES:
            max(pages, key=lambda page: page.nbytes).give_up()

    def _begin(self, slot: int, request: str) -> None:
        before = self._pages.get(slot)
        if before is not None and before.end > before.first:
            self._left.append(before)
        self._pages[slot] = _Page(request, key_of(request, self.layer))

    def _put(self, spans: Sequence[RowSpan], rows: bytes | bytearray | memoryview, dtype: torch.dtype,
             values: bytes) -> None:  # fmt: skip
        total, at = sum(span.end - span.start for span in spans), 0
        if not total:
            return
        rows_TB: Bytes = np.frombuffer(rows, dtype=np.uint8).reshape(total, -1)
        values_TB: Bytes | None = np.frombuffer(values, dtype=np.uint8).reshape(total, SIZE) if values else None
        for span in spans:
            count = span.end - span.start
            page = self._pages.get(span.slot)
            if page is not None and count:
                own = None if values_TB is None else values_TB[at : at + count]
                page.put(span, _Chunk(span.start, rows_TB[at : at + count], dtype, own))
            at += count


def _signed(page: _Page, end: int) -> list[Unsigned]:
    """Blocks that end where `TOKENS_PER_BLOCK` divides, and at `end`; as many under each root as there may be."""
    found = []
    while page.first < end:
        ends = [*range((page.first // TOKENS_PER_BLOCK + 1) * TOKENS_PER_BLOCK, end, TOKENS_PER_BLOCK), end]
        found.append(page.sign(ends[:MAX_BLOCKS]))
    return found
