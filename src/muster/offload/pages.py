"""KV pages of which some lie in memory and the rest on disk: a record for each page of each layer.

    pages   0 ........ in_memory - 1 | in_memory ........ num_pages - 1
            tensors of `KVCache`     | records on disk, layer after layer; keys and values of a page in one record

Which is where never changes; whoever hands out low pages first keeps in memory what there is room for. Knows nothing of
attention (`paging`) or of who owns a page. The file has no name once it is open and is gone with the process.
"""

import os
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from muster.errors import MachineTrouble, StepFailed
from muster.model.cache import HeadSizes, KVCache, Places
from muster.offload.direct import DirectFile, ReadsBlocks, aligned_buffer, aligned_up, write_all
from muster.wire.messages.generate import Row

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class RecordShape:
    """What a page of one layer is on disk."""

    page_size: int
    sizes: HeadSizes
    dtype: torch.dtype

    @property
    def key_bytes(self) -> int:
        return self.page_size * self.sizes.num_heads * self.sizes.key_size * self.dtype.itemsize

    @property
    def value_bytes(self) -> int:
        return self.page_size * self.sizes.num_heads * self.sizes.value_size * self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        return aligned_up(self.key_bytes + self.value_bytes)

    def views(self, records: memoryview) -> tuple[Tensor, Tensor]:
        """Keys and values [n, page_size, K, D] of n records in memory; no copy."""
        raw = torch.frombuffer(records, dtype=torch.uint8).view(-1, self.nbytes)
        keys = raw[:, : self.key_bytes].view(self.dtype)
        values = raw[:, self.key_bytes : self.key_bytes + self.value_bytes].view(self.dtype)
        heads = self.sizes.num_heads
        return (
            keys.view(len(raw), self.page_size, heads, self.sizes.key_size),
            values.view(len(raw), self.page_size, heads, self.sizes.value_size),
        )


class PageFile:
    """Records of `num_pages` pages for each layer."""

    def __init__(self, layers: Sequence[RecordShape], num_pages: int, folder: Path, most_bytes: int) -> None:
        """Raises `MachineTrouble` where the disk has no room for them, or none was lent."""
        self.layers, self.num_pages = tuple(layers), num_pages
        self._starts = [0]
        for layer in layers:
            self._starts.append(self._starts[-1] + num_pages * layer.nbytes)
        self.nbytes = self._starts[-1]
        if self.nbytes > most_bytes:
            raise MachineTrouble(
                f"The cache on disk takes {self.nbytes / 1e9:.3g} GB and {most_bytes / 1e9:.3g} GB are left of what is "
                "lent; raise --disk, or ask for a smaller context or fewer requests at once."
            )
        try:
            self._descriptor = _nameless(folder, self.nbytes)
        except OSError as error:
            raise MachineTrouble(
                f"{self.nbytes / 1e9:.3g} GB of cache cannot be kept in {folder} ({error.strerror}); free space "
                "there, or name another directory with --disk-dir."
            ) from error
        weakref.finalize(self, os.close, self._descriptor)
        self.file: ReadsBlocks = _OurFile(Path(f"/proc/self/fd/{self._descriptor}"))

    def place(self, layer: int, page: int) -> int:
        return self._starts[layer] + page * self.layers[layer].nbytes

    def write(self, start: int, record: memoryview) -> None:
        """Raises `StepFailed`."""
        try:
            write_all(self._descriptor, record, start)
        except OSError as error:
            raise StepFailed(
                f"The cache on disk cannot be written ({error.strerror}); free space there, or lend less with --disk."
            ) from error


class _OurFile(DirectFile):
    """Nobody but this process writes to it, and that is no reason to stop."""

    def check_unchanged(self) -> None:
        return


def _nameless(folder: Path, nbytes: int) -> int:
    """A file of that size, whose blocks are set aside; open for direct reads and writes where there are such."""
    folder.mkdir(parents=True, exist_ok=True)
    plain, path = tempfile.mkstemp(prefix="muster-cache-", dir=folder)
    try:
        os.posix_fallocate(plain, 0, max(1, nbytes))
        try:
            return os.open(path, os.O_RDWR | os.O_DIRECT)
        except (OSError, AttributeError):
            return os.dup(plain)
    finally:
        os.close(plain)
        os.unlink(path)


class TieredCache(KVCache):
    """`in_memory` pages in memory, and the rest of all `num_pages` on disk."""

    def __init__(
        self,
        layers: Sequence[HeadSizes],
        num_pages: int,
        in_memory: int,
        page_size: int,
        dtype: torch.dtype,
        device: torch.device,
        folder: Path,
        most_bytes: int,
    ) -> None:
        super().__init__(layers, max(1, in_memory), page_size, dtype, device)
        self.num_pages = self.step_pages = num_pages
        self.in_memory = in_memory
        self.records = [RecordShape(page_size, sizes, dtype) for sizes in layers]
        self.disk = PageFile(self.records, num_pages - in_memory, folder, most_bytes)

    def enter(self, rows: Sequence[Row], copies: Sequence[tuple[int, int]]) -> Places | None:
        within = [pair for pair in copies if max(pair) < self.in_memory]
        self.copy_pages(within)
        for source, target in copies:
            if max(source, target) >= self.in_memory:
                self._copy(source, target)
        return None

    def _copy(self, source: int, target: int) -> None:
        for index, shape in enumerate(self.records):
            buffer = aligned_buffer(shape.nbytes)
            keys, values = shape.views(buffer)
            if source >= self.in_memory:
                self.disk.file.read_into(buffer, self.disk.place(index, source - self.in_memory), shape.nbytes)
            else:
                keys[0].copy_(self._keys[index][source])
                values[0].copy_(self._values[index][source])
            if target >= self.in_memory:
                self.disk.write(self.disk.place(index, target - self.in_memory), buffer)
            else:
                self._keys[index][target].copy_(keys[0])
                self._values[index][target].copy_(values[0])
