"""Which bytes on disk a unit of work needs, and what they become in a buffer. Reads nothing.

A *unit* is what is fetched and given up together: the tensors of a layer that do not stay in memory, or a few rows of
the head. Tensors that lie beside each other on disk are read in one run, in whole blocks:

    file     …|  q_proj  |  k_proj  |  v_proj  |…        runs begin and end between blocks
              |<-------------- run ------------->|
    buffer    |..q_proj..|..k_proj..|..v_proj....|        a tensor begins where it did, relative to its block
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor

from muster.offload.direct import aligned_down, aligned_up

GAP_BYTES = 2**17
"""Bytes between two tensors that are read along rather than skipped."""


@dataclass(frozen=True, slots=True)
class Lying:
    """Where the bytes of a tensor lie, as they are used."""

    path: Path
    start: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def can_be_viewed(self) -> bool:
        """Whether it begins at a multiple of its elements; headers of odd length are rare."""
        return self.start % self.dtype.itemsize == 0

    @property
    def nbytes(self) -> int:
        return self.dtype.itemsize * torch.Size(self.shape).numel()

    @property
    def stop(self) -> int:
        return self.start + self.nbytes

    def rows(self, first: int, last: int) -> "Lying":
        """Rows [first, last) of the tensor's first dimension."""
        row = self.nbytes // self.shape[0]
        return Lying(self.path, self.start + first * row, self.dtype, (last - first, *self.shape[1:]))


@dataclass(frozen=True, slots=True)
class ByteRun:
    """Bytes [start, start + nbytes) of a file, whose place in the buffer is `at`; both begin at a block."""

    path: Path
    start: int
    nbytes: int
    at: int


@dataclass(frozen=True, slots=True)
class Unit:
    """Named tensors that come and go together."""

    name: str
    runs: tuple[ByteRun, ...]
    tensors: tuple[tuple[str, Lying, int], ...]
    """Name, what it is, and where it begins in the buffer."""
    buffer_bytes: int
    read_bytes: int

    @property
    def weight_bytes(self) -> int:
        return sum(lying.nbytes for _, lying, _ in self.tensors)

    def views(self, buffer: memoryview) -> dict[str, Tensor]:
        """The tensors in a buffer that holds the unit's runs; no copy."""
        return {name: _view(buffer, at, lying) for name, lying, at in self.tensors}


def _view(buffer: memoryview, at: int, lying: Lying) -> Tensor:
    count = torch.Size(lying.shape).numel()
    return torch.frombuffer(buffer, dtype=lying.dtype, count=count, offset=at).view(lying.shape)


def unit_of(name: str, tensors: Iterable[tuple[str, Lying]]) -> Unit:
    """The runs that bring these tensors, and where each tensor is then."""
    by_place = sorted(tensors, key=lambda pair: (pair[1].path, pair[1].start))
    runs: list[ByteRun] = []
    placed: list[tuple[str, Lying, int]] = []
    end = 0
    for path, some in groupby(by_place, key=lambda pair: pair[1].path):
        for together in _near(list(some)):
            start = aligned_down(together[0][1].start)
            stop = max(lying.stop for _, lying in together)
            runs.append(ByteRun(path, start, stop - start, end))
            placed += [(name, lying, end + lying.start - start) for name, lying in together]
            end += aligned_up(stop - start)
    return Unit(name, tuple(runs), tuple(placed), end, sum(run.nbytes for run in runs))


def _near(tensors: Sequence[tuple[str, Lying]]) -> list[list[tuple[str, Lying]]]:
    """In order, with what lies close together in one list."""
    groups: list[list[tuple[str, Lying]]] = []
    stop = 0
    for pair in tensors:
        if groups and pair[1].start - stop <= GAP_BYTES:
            groups[-1].append(pair)
        else:
            groups.append([pair])
        stop = max(stop, pair[1].stop) if len(groups[-1]) > 1 else pair[1].stop
    return groups
