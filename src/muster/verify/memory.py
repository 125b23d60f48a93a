"""An exercise that only who holds the memory does in time: rows of data that depend on each other, read in full.

    rows 0 .. h-1     U[i] = G(i)     xor G(h + a) of four a        G: 64 KiB drawn from the seed
    rows h .. 2h-1    V[i] = G(h + i) xor U[b]     of four b        a, b: drawn from the seed, too

What is asked for is a sum over each row with weights that are told only when all of it must be there. Whoever holds
nothing draws thirteen times as much for it as whoever holds everything has drawn once. To check one row takes up to 21
draws, and a few rows are checked. Seeds and sums travel; no data.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from blake3 import blake3

Words = npt.NDArray[np.int64]
ROW_BYTES = 64 * 2**10
MIN_ROWS = 4
MAX_ROWS = 4 * 2**30 // ROW_BYTES
PICKS = 16
NEIGHBOURS = 4
SEED_BYTES = 16


@dataclass(frozen=True, slots=True)
class MemoryExercise:
    seed: bytes
    rows: int

    @property
    def half(self) -> int:
        return self.rows // 2

    @property
    def answer_bytes(self) -> int:
        return 8 * self.rows

    def is_reasonable(self) -> bool:
        return len(self.seed) == SEED_BYTES and MIN_ROWS <= self.rows <= MAX_ROWS and self.rows % 2 == 0

    def drawn(self, row: int) -> bytes:
        """G of this row."""
        return blake3(self.seed + row.to_bytes(8, "little")).digest(ROW_BYTES)

    def neighbours(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """[half, NEIGHBOURS] of each half, as rows of the other half, counted from its start."""
        count = self.half * NEIGHBOURS
        words = np.frombuffer(blake3(self.seed + b"neighbours").digest(2 * count * 4), dtype="<u4")
        both = (words % self.half).astype(np.int64).reshape(2, self.half, NEIGHBOURS)
        return both[0], both[1]

    def holds(self, answer: bytes | bytearray | memoryview, nonce: bytes, picks: npt.NDArray[np.int64]) -> bool:
        """Whether the sums of the rows `picks` are right: int64 [rows], little endian."""
        if memoryview(answer).nbytes != self.answer_bytes:
            return False
        sums, weights = np.frombuffer(answer, dtype="<i8"), weights_of(nonce)
        neighbours = self.neighbours()
        return all(int((self._row(pick, neighbours) * weights).sum()) == int(sums[pick]) for pick in picks.tolist())

    def _row(self, row: int, neighbours: tuple[Words, Words]) -> Words:
        first, second = neighbours
        if row < self.half:
            others = [self._words(self.half + int(other)) for other in first[row]]
        else:
            others = [self._row(int(other), neighbours) for other in second[row - self.half]]
        found = self._words(row).copy()
        for other in others:
            found ^= other
        return found

    def _words(self, row: int) -> Words:
        return np.frombuffer(self.drawn(row), dtype="<i8")


def sized(seed: bytes, wanted_bytes: int) -> MemoryExercise:
    """One that takes so many bytes, or as many as exercises take."""
    rows = min(MAX_ROWS, max(MIN_ROWS, wanted_bytes // ROW_BYTES))
    return MemoryExercise(seed, rows - rows % 2)


def whole_rows(wanted_bytes: float) -> int:
    """The bytes that the exercise of this size takes, exactly."""
    return sized(b"", int(wanted_bytes)).rows * ROW_BYTES


def weights_of(nonce: bytes) -> Words:
    """Of the words of a row."""
    return np.frombuffer(blake3(nonce).digest(ROW_BYTES), dtype="<i8")
