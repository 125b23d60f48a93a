"""Embedding and head of a stage that offloads: single rows of the one, a few rows after the other of the other.

An embedding's own forward runs with the rows that were brought as its weight, so that what a family does around it
(scaling) stays its own.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from muster.offload.direct import BLOCK, DEPTH, DirectReader, ReadsBlocks, aligned_buffer, aligned_down, aligned_up
from muster.offload.parts import Lying, Unit, unit_of
from muster.offload.stream import OpenFile, WeightStream

ROWS_AT_ONCE = 4096
"""Of an embedding: as many different tokens as one read of rows may bring."""


def head_units(lying: Lying, most_bytes: int) -> list[Unit]:
    """The rows of a head in units of about `most_bytes`, all alike."""
    count = max(1, -(-lying.nbytes // most_bytes))
    rows = -(-lying.shape[0] // count)
    starts = range(0, lying.shape[0], rows)
    return [
        unit_of(f"head.{start}", [("weight", lying.rows(start, min(start + rows, lying.shape[0])))]) for start in starts
    ]


def stream_head(module: nn.Linear, units: Sequence[Unit], stream: WeightStream) -> None:
    """From now on `module` multiplies by its rows as they come."""
    bias = None if module.bias is None else module.bias.detach()
    features = module.out_features

    def forward(x: Tensor) -> Tensor:
        result = x.new_empty(*x.shape[:-1], features)
        if x.numel() == 0:
            return result
        start = 0
        for unit in units:
            weight = stream.enter(unit.name)["weight"]
            try:
                stop = start + weight.shape[0]
                result[..., start:stop] = linear(x, weight, None if bias is None else bias[start:stop])
                start = stop
            finally:
                stream.leave(unit.name)
        return result

    module.forward = forward  # type: ignore[method-assign,assignment]


def rows_from_disk(module: nn.Embedding, lying: Lying, reader: DirectReader, open_file: OpenFile) -> None:
    """From now on `module` reads the rows that it is asked for, each once per step."""
    rows = _Rows(lying, reader, open_file(lying.path))
    forward = module.forward
    meta = module._parameters["weight"]

    def brought(tokens: Tensor) -> Any:
        wanted, places = torch.unique(tokens, return_inverse=True)
        padding, module.padding_idx = module.padding_idx, None
        module._parameters["weight"] = nn.Parameter(rows.read(wanted.tolist()), requires_grad=False)
        try:
            return forward(places)
        finally:
            module._parameters["weight"], module.padding_idx = meta, padding

    module.forward = brought  # type: ignore[method-assign,assignment]


class _Rows:
    """Single rows of a matrix on disk."""

    def __init__(self, lying: Lying, reader: DirectReader, file: ReadsBlocks) -> None:
        self._lying, self._reader, self._file = lying, reader, file
        self._row_bytes = lying.rows(0, 1).nbytes
        self._window = aligned_up(self._row_bytes) + BLOCK
        """Blocks that one row may touch."""

    def read(self, rows: Sequence[int]) -> Tensor:
        """[rows, H], in the order given. Raises `StepFailed`."""
        found = torch.empty(len(rows) * self._row_bytes, dtype=torch.uint8)
        target = found.numpy().data
        for at in range(0, len(rows), ROWS_AT_ONCE):
            self._read(rows[at : at + ROWS_AT_ONCE], target[at * self._row_bytes :])
        return found.view(self._lying.dtype).view(len(rows), *self._lying.shape[1:])

    def _read(self, rows: Sequence[int], target: memoryview) -> None:
        size, share = self._row_bytes, -(-len(rows) // DEPTH)
        parts = [range(first, min(first + share, len(rows))) for first in range(0, len(rows), share)]
        self._reader.run(
            [_reading(self._file, self._window, self._lying.start, size, rows, part, target) for part in parts]
        )


def _reading(
    file: ReadsBlocks,
    window: int,
    base: int,
    size: int,
    rows: Sequence[int],
    part: range,
    target: memoryview,
) -> Callable[[], None]:
    """Reads some of the rows, one after another, through a buffer of its own."""

    def read() -> None:
        buffer = aligned_buffer(window)
        file.check_unchanged()
        for index in part:
            start = base + rows[index] * size
            first = aligned_down(start)
            needed = start + size - first
            file.read_into(buffer[: aligned_up(needed)], first, needed)
            target[index * size : (index + 1) * size] = buffer[start - first : needed]

    return read
