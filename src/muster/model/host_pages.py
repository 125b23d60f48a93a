"""KV pages in host memory, one run of bytes for each page, and the copies between them and a stage's frames.

Knows nothing of which page should lie where. On a CPU both are memory of the same machine. On CUDA the host's is
page-locked, and two streams beside the computing one carry a direction each, through a buffer each that gathers the
layers of a few pages, so that the bus sees long copies.
"""

from collections.abc import Callable
from typing import Any
from weakref import finalize

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from muster.errors import MachineTrouble
from muster.model.cache import KVCache, zeros

Ints = npt.NDArray[np.int64]
CPU_CHUNK_BYTES = 2**20
"""Of pages copied at a time: what is gathered is still in the processor's cache when it is written."""
CUDA_CHUNK_BYTES = 16 * 2**20
"""Of each direction's buffer. It counts as a kernel's workspace, which every device keeps a reserve for."""


class HostPages:
    """Places 0..num_pages-1 in host memory for pages of `frames`."""

    def __init__(self, frames: KVCache, num_pages: int) -> None:
        """Raises `MachineTrouble` where there is no such memory."""
        self._parts: list[tuple[Tensor, slice]] = []
        start = 0
        for tensor in frames.tensors:
            flat_FE = tensor.flatten(1)
            self._parts.append((flat_FE, slice(start, start + flat_FE.shape[1])))
            start += flat_FE.shape[1]
        dtype = frames.tensors[0].dtype  # that of codes where pages are in few bits
        self.page_bytes = start * dtype.itemsize
        self.device = frames.device
        chunk_bytes = CUDA_CHUNK_BYTES if self.device.type == "cuda" else CPU_CHUNK_BYTES
        self._chunk = max(1, chunk_bytes // max(1, self.page_bytes))
        try:
            self._pages_NE = zeros((num_pages, start), dtype, torch.device("cpu"))
        except (RuntimeError, MemoryError) as error:
            raise _no_room(num_pages * self.page_bytes) from error
        if self.device.type == "cpu":
            # Here numpy copies rows twice as fast as torch, and lets go of the interpreter meanwhile as well.
            self._host_NB = self._pages_NE.view(torch.uint8).numpy()
            size = dtype.itemsize
            self._rows = [
                (flat_FE.view(torch.uint8).numpy(), slice(part.start * size, part.stop * size))
                for flat_FE, part in self._parts
            ]
        if self.device.type == "cuda":
            self._release = _lock(self._pages_NE)
            self._outward, self._inward = (_stream(self.device) for _ in range(2))
            self._out_buffer, self._in_buffer = (
                torch.empty((self._chunk, start), dtype=dtype, device=self.device) for _ in range(2)
            )

    @property
    def nbytes(self) -> int:
        return self._pages_NE.nbytes

    def computed(self) -> Any:
        """A mark behind all that this thread has asked the device to compute, for `move`; None where nothing waits."""
        return torch.cuda.current_stream(self.device).record_event() if self.device.type == "cuda" else None

    @torch.inference_mode()
    def move(self, after: Any, out: tuple[Ints, Ints], into: tuple[Ints, Ints]) -> Any:
        """Pages `out` (pages, frames) to the host, then pages `into` (pages, frames) from there; after that mark.

        Returns a mark for `await_move`. May be called in another thread than the one that computes, always the same.
        """
        if self.device.type == "cuda":
            return self._move_on_streams(after, out, into)
        for pages, frames in self._chunks(*out):
            for frames_FB, part in self._rows:
                self._host_NB[pages, part] = frames_FB[frames]
        for pages, frames in self._chunks(*into):
            for frames_FB, part in self._rows:
                frames_FB[frames] = self._host_NB[pages, part]
        return None

    def await_move(self, mark: Any) -> None:
        """What this thread asks the device to compute from now on comes after that."""
        if mark is not None:
            torch.cuda.current_stream(self.device).wait_event(mark)

    def _chunks(self, pages: Ints, frames: Ints) -> list[tuple[Ints, Ints]]:
        starts = range(0, len(pages), self._chunk)
        return [(pages[start : start + self._chunk], frames[start : start + self._chunk]) for start in starts]

    def _move_on_streams(self, after: torch.cuda.Event, out: tuple[Ints, Ints], into: tuple[Ints, Ints]) -> Any:
        # The frames that go out may have come in by the last move, and be read by what is computed until the mark.
        self._outward.wait_stream(self._inward)
        self._outward.wait_event(after)
        self._inward.wait_event(after)
        outs, intos = self._chunks(*out), self._chunks(*into)
        for index in range(max(len(outs), len(intos))):
            if index < len(outs):
                with torch.cuda.stream(self._outward):
                    self._write(*outs[index])
                # A page may come into the frame that another has just left.
                self._inward.wait_event(self._outward.record_event())
            if index < len(intos):
                with torch.cuda.stream(self._inward):
                    self._read(*intos[index])
        self._inward.wait_stream(self._outward)
        return self._inward.record_event()

    def _write(self, pages: Ints, frames: Ints) -> None:
        frames_P = torch.from_numpy(frames).to(self.device)
        for flat_FE, part in self._parts:
            self._out_buffer[: len(pages), part] = flat_FE.index_select(0, frames_P)
        for row, page in enumerate(pages.tolist()):
            self._pages_NE[page].copy_(self._out_buffer[row], non_blocking=True)

    def _read(self, pages: Ints, frames: Ints) -> None:
        frames_P = torch.from_numpy(frames).to(self.device)
        for row, page in enumerate(pages.tolist()):
            self._in_buffer[row].copy_(self._pages_NE[page], non_blocking=True)
        for flat_FE, part in self._parts:
            flat_FE.index_copy_(0, frames_P, self._in_buffer[: len(pages), part])


def _stream(device: torch.device) -> torch.cuda.Stream:
    stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    return stream


def _lock(pages_NE: Tensor) -> Callable[[], object]:
    """Page-lock the memory where it lies; the allocator for pinned memory would round its size up to a power of two."""
    driver: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    if int(driver.cudaHostRegister(pages_NE.data_ptr(), pages_NE.nbytes, 0)) != 0:
        raise _no_room(pages_NE.nbytes)
    return finalize(pages_NE, driver.cudaHostUnregister, pages_NE.data_ptr())


def _no_room(nbytes: int) -> MachineTrouble:
    return MachineTrouble(
        f"{nbytes / 1e9:.1f} GB of host memory for KV pages are not to be had here; lend less with --host-memory."
    )
