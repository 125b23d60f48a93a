"""Tensors that the checkpoint does not hold as they are used (cast, stacked, cut, quantised), written once to disk.

The file has no name any more once it is open: nobody else writes to it, and it is gone with the process.
"""

import os
import tempfile
import weakref
from pathlib import Path

import torch
from torch import Tensor

from muster.errors import MachineTrouble
from muster.offload.direct import BLOCK, aligned_buffer, aligned_up, write_all
from muster.offload.parts import Lying

PIECE_BYTES = 8 * 2**20
"""Written at once."""


class SpillFile:
    """Grows tensor by tensor, at most to `most_bytes`; opened with the first."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder, self._most_bytes = folder, most_bytes
        self._descriptor = -1
        self._end = 0

    @property
    def nbytes(self) -> int:
        return self._end

    def write(self, name: str, tensor: Tensor) -> Lying:
        """Raises `MachineTrouble` where there is no room for it, or none was lent."""
        nbytes = aligned_up(tensor.nbytes)
        if self._end + nbytes > self._most_bytes:
            raise MachineTrouble(
                f"Weights take more than the {self._most_bytes / 1e9:.3g} GB of disk that are lent; "
                "raise --disk, or let the head place fewer layers here."
            )
        try:
            if self._descriptor < 0:
                self._open()
            self._write(tensor)
        except OSError as error:
            raise MachineTrouble(
                f"Weights cannot be kept in {self._folder} ({error.strerror}); free space there, or name another "
                "directory with --disk-dir."
            ) from error
        start, self._end = self._end, self._end + nbytes
        return Lying(Path(f"/proc/self/fd/{self._descriptor}"), start, tensor.dtype, tuple(tensor.shape))

    def _open(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        descriptor, path = tempfile.mkstemp(prefix="muster-weights-", dir=self._folder)
        os.unlink(path)
        self._descriptor = descriptor
        self._buffer = aligned_buffer(PIECE_BYTES)
        weakref.finalize(self, os.close, descriptor)

    def _write(self, tensor: Tensor) -> None:
        raw = tensor.contiguous().view(-1).view(torch.uint8).numpy().data
        for at in range(0, len(raw), PIECE_BYTES):
            piece = raw[at : at + PIECE_BYTES]
            self._buffer[: len(piece)] = piece
            write_all(self._descriptor, self._buffer[: aligned_up(len(piece))], self._end + at)
        # What is written is read again past the page cache, which must not keep it.
        os.fdatasync(self._descriptor)
        os.posix_fadvise(self._descriptor, self._end, aligned_up(len(raw)), os.POSIX_FADV_DONTNEED)


assert PIECE_BYTES % BLOCK == 0
