"""Random numbers that depend on (seed, position, token) and on nothing else.

Philox4x32-10 of J. Salmon, M. Moraes, R. Dror, D. Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011,
section 3.3. The key is the seed; the counter holds the position of the sampled token in its sequence, and which number
of that position is meant. So an interrupted stream continues as it would have, whoever continues it and whatever else
runs in the same batch. Knows nothing of logits.
"""

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
"""Words of 32 bits, each in the low half of its own 64. Broadcast against each other as usual."""

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)
_ROUNDS = 10


def philox(counter: tuple[Words, Words, Words, Words], key: tuple[Words, Words]) -> tuple[Words, Words, Words, Words]:
    """Four words from a counter of four and a key of two."""
    c0, c1, c2, c3 = counter
    for round_number in range(_ROUNDS):
        k0, k1 = ((half + np.uint64(round_number * step)) & _LOW for half, step in zip(key, _WEYL, strict=True))
        product_0, product_1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (product_1 >> _32) ^ c1 ^ k0, product_1 & _LOW, (product_0 >> _32) ^ c3 ^ k1, product_0 & _LOW
    return c0, c1, c2, c3


class Noise:
    """The random words of some rows, each with a seed and a position."""

    def __init__(self, seeds: list[int], positions: list[int]) -> None:
        self._keys = _halves(seeds)
        self._positions = _halves(positions)

    def words(self, rows: slice | NDArray[np.int64], index: Words, stream: int) -> tuple[Words, Words, Words, Words]:
        """Four words for each `index` of stream number `stream`, in the rows [N] that come with it; or, with a new last
        axis, for each index in every row."""
        key_low, key_high, low, high = (half[rows] for half in (*self._keys, *self._positions))
        if isinstance(rows, slice):
            key_low, key_high, low, high = (half[:, None] for half in (key_low, key_high, low, high))
        return philox((low, high, index, np.array(stream, dtype=np.uint64)), (key_low, key_high))


def _halves(numbers: list[int]) -> tuple[Words, Words]:
    low, high = ([number >> shift & 0xFFFFFFFF for number in numbers] for shift in (0, 32))
    return np.array(low, dtype=np.uint64), np.array(high, dtype=np.uint64)


def exponential(words: Words) -> NDArray[np.float64]:
    """Words become draws of the exponential distribution of mean 1, never 0."""
    return -np.log((words.astype(np.float64) + 0.5) * 2.0**-32)
