"""Reads past the page cache: what is read takes no memory but the buffer that it was asked into. Knows no tensors.

With `O_DIRECT` a device copies straight into the reader's memory, in whole blocks: places in the file, lengths and
buffers are multiples of `BLOCK`. Where a file system has no such reads (tmpfs), what the page cache took is given back.
"""

import mmap
import os
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

from muster.errors import StepFailed

BLOCK = 4096
"""A multiple of every block size that disks have."""
CHUNK_BYTES = 4 * 2**20
"""Of one request to the disk."""
DEPTH = 4
"""Requests under way at once."""
TRIES = 3
"""A request that fails is made again: most errors of a disk under load are gone then."""
_PAUSE_S = 0.05


def aligned_down(place: int) -> int:
    return place - place % BLOCK


def aligned_up(place: int) -> int:
    return place + -place % BLOCK


def aligned_buffer(nbytes: int) -> memoryview:
    """Memory of the system's own that begins at a page. It is taken when it is first written."""
    return memoryview(mmap.mmap(-1, max(aligned_up(nbytes), BLOCK)))


def write_all(descriptor: int, data: memoryview, start: int) -> None:
    """From a place of the file on. Raises `OSError`."""
    while data:
        count = os.pwritev(descriptor, [data], start)
        data, start = data[count:], start + count


class ReadsBlocks(Protocol):
    """A file on disk, or its twin of a given speed (`throttle`)."""

    def read_into(self, target: memoryview, start: int, needed: int) -> None:
        """Fill `target`, aligned, from an aligned place on; beyond the `needed` bytes the file may end.

        Raises `StepFailed`.
        """

    def check_unchanged(self) -> None:
        """Raise `StepFailed` where somebody wrote to the file since it was opened."""


class DirectFile:
    """One file, open for reading. Several threads may read at once."""

    def __init__(self, path: Path) -> None:
        """Raises `StepFailed` where it cannot be opened."""
        self.path = path
        try:
            try:
                self._descriptor, self.is_direct = os.open(path, os.O_RDONLY | os.O_DIRECT), True
            except (OSError, AttributeError):
                self._descriptor, self.is_direct = os.open(path, os.O_RDONLY), False
        except OSError as error:
            raise StepFailed(
                f"{path.name} cannot be opened ({error.strerror}); check that it is there and its permissions."
            ) from error
        weakref.finalize(self, os.close, self._descriptor)
        self._state = self._stat()

    def _stat(self) -> tuple[int, int]:
        found = os.fstat(self._descriptor)
        return found.st_size, found.st_mtime_ns

    def check_unchanged(self) -> None:
        if self._stat() != self._state:
            raise StepFailed(
                f"{self.path.name} was changed while its weights are served from disk; "
                "restore it, or restart Muster to serve what it holds now."
            )

    def read_into(self, target: memoryview, start: int, needed: int) -> None:
        for attempt in range(TRIES):
            try:
                self._read(target, start, needed)
            except OSError as error:
                if attempt == TRIES - 1:
                    raise StepFailed(
                        f"{self.path.name} cannot be read ({error.strerror}); check the disk, then ask again."
                    ) from error
                time.sleep(_PAUSE_S * 2**attempt)
            else:
                return

    def _read(self, target: memoryview, start: int, needed: int) -> None:
        done = 0
        while done < needed:
            # What is left begins at a block, as long as the device answers in whole blocks; the end of a file does not.
            count = os.preadv(self._descriptor, [target[done:]], start + done)
            if not count:
                raise StepFailed(
                    f"{self.path.name} has become shorter while its weights are served from disk; "
                    "restore it and restart Muster."
                )
            done += count
        if not self.is_direct:
            os.posix_fadvise(self._descriptor, start, done, os.POSIX_FADV_DONTNEED)


class DirectRead:
    """Requests of one unit under way. Done when all are; the first error is the unit's."""

    def __init__(self, chunks: Sequence[Future[None]]) -> None:
        self._chunks = chunks

    @property
    def is_done(self) -> bool:
        return all(chunk.done() for chunk in self._chunks)

    def wait(self) -> None:
        """Raises `StepFailed`. Returns, or raises, only once nothing is written into the buffer any more."""
        errors = [error for chunk in self._chunks if not chunk.cancelled() and (error := chunk.exception())]
        if errors:
            raise errors[0]

    def give_up(self) -> None:
        """Requests that have not begun are not made; waits for those that have."""
        for chunk in self._chunks:
            chunk.cancel()
        for chunk in self._chunks:
            if not chunk.cancelled():
                chunk.exception()


class DirectReader:
    """Threads that read; the requests of all units in the order in which they were asked for."""

    def __init__(self, depth: int = DEPTH, chunk_bytes: int = CHUNK_BYTES) -> None:
        self._threads = ThreadPoolExecutor(depth, thread_name_prefix="disk")
        self._beside = ThreadPoolExecutor(depth, thread_name_prefix="rows")
        self._chunk_bytes = chunk_bytes
        self._lock = Lock()
        self.read_bytes = 0
        self._under_way = 0
        self._busy_since_s = 0.0
        self._busy_s = 0.0

    @property
    def busy_s(self) -> float:
        """In which at least one request was under way."""
        with self._lock:
            return self._busy_s + (time.perf_counter() - self._busy_since_s if self._under_way else 0.0)

    def read(self, pieces: Sequence[tuple[ReadsBlocks, int, int, memoryview]]) -> DirectRead:
        """Of each (file, aligned place, bytes, where to): the target's length is the bytes' rounded up to blocks."""
        return self._submit(self._threads, pieces)

    def _submit(
        self, threads: ThreadPoolExecutor, pieces: Sequence[tuple[ReadsBlocks, int, int, memoryview]]
    ) -> DirectRead:
        chunks = []
        for file, start, nbytes, target in pieces:
            chunks.append(threads.submit(file.check_unchanged))
            for at in range(0, nbytes, self._chunk_bytes):
                part = target[at : min(at + self._chunk_bytes, len(target))]
                needed = min(self._chunk_bytes, nbytes - at)
                chunks.append(threads.submit(self._timed, file.read_into, part, start + at, needed))
        return DirectRead(chunks)

    def read_beside(self, pieces: Sequence[tuple[ReadsBlocks, int, int, memoryview]]) -> DirectRead:
        """As `read`, but not behind what was asked for before: for what is wanted sooner."""
        return self._submit(self._beside, pieces)

    def beside(self, call: Callable[..., None], *args: Any) -> "Future[None]":
        return self._beside.submit(call, *args)

    def run(self, jobs: Sequence[Callable[[], None]]) -> None:
        """Beside what is under way; returns when all are done. Raises the first error."""
        reading = DirectRead([self._beside.submit(job) for job in jobs])
        reading.wait()

    def _timed(
        self, read_into: Callable[[memoryview, int, int], None], target: memoryview, start: int, needed: int
    ) -> None:
        with self._lock:
            if not self._under_way:
                self._busy_since_s = time.perf_counter()
            self._under_way += 1
        try:
            read_into(target, start, needed)
        finally:
            with self._lock:
                self._under_way -= 1
                self.read_bytes += needed
                if not self._under_way:
                    self._busy_s += time.perf_counter() - self._busy_since_s

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)
        self._beside.shutdown(cancel_futures=True)
