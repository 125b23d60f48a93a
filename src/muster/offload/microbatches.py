"""One layer for all microbatches of a step, one after another, while its weights are there: FlexGen's zig-zag block.

    step      [ row 0 | row 1 | row 2 .................. | row 3 | row 4 ]      tokens
    pieces    [    piece 0    | piece 1       | piece 2       |  piece 3 ]      a long row is cut as by chunks

Keys and values of a piece are stored before the next one attends, so that a cut row sees itself. Everything that a
layer gets is cut along its tokens; a layer that is given something else runs in one piece. Legend as in `model/batch`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from muster.model.attention import Backend, Options
from muster.model.batch import Batch
from muster.model.cache import KVCache


@dataclass(frozen=True, slots=True)
class PieceLimits:
    """Of one piece, so that what a layer computes with it fits into the workspace."""

    rows: int = 64
    """Sequences that get a token."""
    tokens: int = 512
    """Of prompts."""


@dataclass(frozen=True, slots=True)
class StepPiece:
    start: int
    stop: int
    """Tokens [start, stop) of the step."""
    batch: Batch


def pieces_of(batch: Batch, limits: PieceLimits) -> list[StepPiece]:
    return [_piece(batch, parts) for parts in _groups(batch, limits)]


def _groups(batch: Batch, limits: PieceLimits) -> Iterator[list[tuple[int, int, int]]]:
    """Of (row, first new token, number of new tokens)."""
    group: list[tuple[int, int, int]] = []
    decodes = tokens = 0
    for row, length in enumerate(batch.query_lengths):
        for at in range(0, length, limits.tokens):
            count = min(limits.tokens, length - at)
            if group and (decodes + (length == 1) > limits.rows or tokens + count > max(limits.tokens, limits.rows)):
                yield group
                group, decodes, tokens = [], 0, 0
            group.append((row, at, count))
            decodes += length == 1
            tokens += count
    if group:
        yield group


def _piece(batch: Batch, parts: Sequence[tuple[int, int, int]]) -> StepPiece:
    starts = [0]
    for length in batch.query_lengths:
        starts.append(starts[-1] + length)
    (first_row, first_at, _), (last_row, last_at, last_count) = parts[0], parts[-1]
    start, stop = starts[first_row] + first_at, starts[last_row] + last_at + last_count
    rows = [row for row, _, _ in parts]
    contexts = [batch.context_lengths[row] - batch.query_lengths[row] + at + count for row, at, count in parts]
    return StepPiece(
        start,
        stop,
        Batch(
            positions_T=batch.positions_T[start:stop],
            slots_T=batch.slots_T[start:stop],
            page_tables_RP=batch.page_tables_RP[rows[0] : rows[-1] + 1],
            query_lengths=tuple(count for _, _, count in parts),
            context_lengths=tuple(contexts),
            logits_rows_S=batch.logits_rows_S[:0],
        ),
    )


@runtime_checkable
class LinksPieces(Protocol):
    """A backend that has to know in which order pieces come, and when a step is over."""

    def link(self, steps: list[Any]) -> None: ...

    def finish(self) -> None:
        """Raises `StepFailed`."""


class _NotAlongTokens(Exception):
    """A tensor that is not one entry per token."""


class PiecedStep:
    """The pieces of the step at hand, each prepared once for all layers."""

    def __init__(self, backend: Backend, batch: Batch, cache: KVCache, dtype: torch.dtype, limits: PieceLimits) -> None:
        self._backend, self._batch, self._cache, self._dtype = backend, batch, cache, dtype
        self.pieces = pieces_of(batch, limits)
        self.prepared = [backend.prepare(piece.batch, cache, dtype) for piece in self.pieces]
        if isinstance(backend, LinksPieces):
            backend.link(self.prepared)
        self._whole: Any = self.prepared[0] if len(self.pieces) == 1 else None
        self.now: Any = self.prepared[0]
        """Of the piece that is in a layer."""

    def run(
        self,
        layer: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        between: Callable[[], None] = lambda: None,
    ) -> Any:
        """What `layer` makes of all tokens; `between` is called after the first piece."""
        if len(self.pieces) == 1:
            return layer(*args, **kwargs)
        count = self.pieces[-1].stop
        try:
            calls = [
                (_cut(args, count, piece), {key: _cut(value, count, piece) for key, value in kwargs.items()})
                for piece in self.pieces
            ]
        except _NotAlongTokens:
            return self._run_whole(layer, args, kwargs)
        outputs = []
        for prepared, (some, named) in zip(self.prepared, calls, strict=True):
            self.now = prepared
            outputs.append(layer(*some, **named))
            if len(outputs) == 1:
                between()
        return _joined(outputs)

    def _run_whole(self, layer: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if self._whole is None:
            self._whole = self._backend.prepare(self._batch, self._cache, self._dtype)
            if isinstance(self._backend, LinksPieces):
                self._backend.link([self._whole])
        self.now = self._whole
        return layer(*args, **kwargs)


def _cut(value: Any, count: int, piece: StepPiece) -> Any:
    """The piece's tokens of what is [1, T, ...] or [T], also within tuples."""
    if isinstance(value, Tensor):
        if value.dim() >= 2 and value.shape[:2] == (1, count):
            return value[:, piece.start : piece.stop]
        if value.shape == (count,):
            return value[piece.start : piece.stop]
        raise _NotAlongTokens
    if type(value) in (tuple, list):
        return type(value)(_cut(one, count, piece) for one in value)
    if isinstance(value, Mapping):
        return {key: _cut(one, count, piece) for key, one in value.items()}
    return value


def _joined(outputs: Sequence[Any]) -> Any:
    first = outputs[0]
    if isinstance(first, Tensor):
        return torch.cat(list(outputs), dim=1)
    if isinstance(first, tuple):
        return tuple(_joined(some) for some in zip(*outputs, strict=True))
    return first


class BlockBackend:
    """Implements `Backend`: `inner`, for the piece that is in a layer."""

    def __init__(self, inner: Backend, limits: PieceLimits) -> None:
        self._inner, self._limits = inner, limits
        self.step: PiecedStep | None = None

    def prepare(self, batch: Batch, cache: KVCache, dtype: torch.dtype) -> PiecedStep:
        self.step = PiecedStep(self._inner, batch, cache, dtype, self._limits)
        return self.step

    def finish(self) -> None:
        if isinstance(self._inner, LinksPieces):
            self._inner.finish()

    def attend(
        self, prepared: PiecedStep, layer: int, q_TND: Tensor, k_TKD: Tensor, v_TKD: Tensor, options: Options
    ) -> Tensor:
        return self._inner.attend(prepared.now, layer, q_TND, k_TKD, v_TKD, options)
