"""An exercise whose size is known and whose answer takes long to find and little to check: a network of random layers.

    x  ->  clamp(W x, -1, 1), `rounds` times, for each of `columns` inputs      2 n^2 operations a round and input

What is asked for are the first few numbers of every input's end. Nothing is known by which they could be had without
computing all of it, and each input's end depends on that input alone: so a few of them, drawn when all answers are in,
say what the rest is worth. Whoever left out a tenth passes `PICKS` checks in one of five cases.

W and the inputs are multiples of powers of two that bfloat16 and float16 hold exactly.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from blake3 import blake3

Floats = npt.NDArray[np.float32]
DTYPES = ("float32", "bfloat16", "float16")
SIZES = (256, 1024, 2048)
BASE_COLUMNS = 256
"""So many inputs are drawn; others are those, shifted."""
MAX_COLUMNS = 2**19
MAX_ROUNDS = 8
OUTPUTS = 4
"""Numbers that are asked for of each input."""
PICKS = 16
TOLERANCE = 0.08
"""Of numbers between -1 and 1; half precision stays within a third of that."""
SEED_BYTES = 16
_ROUNDS = {256: 4, 1024: 4, 2048: 8}
_SCALES = {256: 2.0**-2, 1024: 2.0**-3, 2048: 2.0**-4}
"""Of W, so that about half of all numbers are clamped: what is linear could be computed faster. With larger ones, and
over more rounds, what rounding differs by would grow beyond the tolerance."""
_LARGE = ((2e10, 256), (1e13, 1024))
"""Up to so many operations a second, that size."""


@dataclass(frozen=True, slots=True)
class SpeedExercise:
    seed: bytes
    dtype: str
    size: int
    rounds: int
    columns: int

    @property
    def flops(self) -> float:
        """Of the last round only a few rows are needed."""
        return float(2 * self.size**2 * (self.rounds - 1) * self.columns)

    @property
    def answer_bytes(self) -> int:
        return self.columns * OUTPUTS * 2

    @property
    def scale(self) -> float:
        return _SCALES[self.size] / 128

    def is_reasonable(self) -> bool:
        """Whether a machine should do it for somebody that it does not trust with its time."""
        known = self.dtype in DTYPES and self.size in SIZES and len(self.seed) == SEED_BYTES
        within = 1 < self.rounds <= MAX_ROUNDS and 0 < self.columns <= MAX_COLUMNS
        return known and within and self.columns % BASE_COLUMNS == 0

    def weights(self) -> npt.NDArray[np.int8]:
        """[size, size], to be multiplied by `scale`."""
        return _drawn(self.seed, b"weights", self.size, self.size)

    def inputs(self) -> npt.NDArray[np.int8]:
        """[size, BASE_COLUMNS], to be divided by 128; input `j` is column `j % BASE_COLUMNS`, rolled down."""
        return _drawn(self.seed, b"inputs", self.size, BASE_COLUMNS)

    def holds(self, answer: bytes | bytearray | memoryview, picks: npt.NDArray[np.int64]) -> bool:
        """Whether the answer is right for the inputs `picks`: float16 [OUTPUTS, columns], little endian."""
        if memoryview(answer).nbytes != self.answer_bytes:
            return False
        found = np.frombuffer(answer, dtype="<f2").reshape(OUTPUTS, self.columns)[:, picks].astype(np.float32)
        return bool(np.all(np.abs(found - self._ends(picks)) <= TOLERANCE))  # false for NaN, too

    def _ends(self, picks: npt.NDArray[np.int64]) -> Floats:
        base = self.inputs()
        columns = [np.roll(base[:, pick % BASE_COLUMNS], pick // BASE_COLUMNS) for pick in picks.tolist()]
        x: Floats = np.stack(columns, axis=1).astype(np.float32) / np.float32(128)
        w: Floats = self.weights().astype(np.float32) * np.float32(self.scale)
        for _ in range(self.rounds):
            x = np.clip(w @ x, -1.0, 1.0)
        return x[:OUTPUTS]


def sized(seed: bytes, dtype: str, flops_per_s: float, seconds: float) -> SpeedExercise:
    """One that takes about so long at this speed, or as long as exercises get."""
    size = next((size for most, size in _LARGE if flops_per_s <= most), SIZES[-1])
    of_column = 2 * size**2 * (_ROUNDS[size] - 1)
    blocks = round(flops_per_s * seconds / of_column / BASE_COLUMNS)
    return SpeedExercise(seed, dtype, size, _ROUNDS[size], min(MAX_COLUMNS, BASE_COLUMNS * max(1, blocks)))


def _drawn(seed: bytes, what: bytes, rows: int, columns: int) -> npt.NDArray[np.int8]:
    return np.frombuffer(blake3(seed + what).digest(rows * columns), dtype=np.int8).reshape(rows, columns)
