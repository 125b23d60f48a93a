"""Random numbers that depend on (seed, position) and on nothing else.

Philox4x32-10 of J. Salmon, M. Moraes, R. Dror, D. Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011,
section 3.3. The key is the seed, the counter is the position of the sampled token in its sequence. So an interrupted
stream continues as it would have, whoever continues it and whatever else runs in the same batch.
"""

import numpy as np
from numpy.typing import NDArray

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)
_ROUNDS = 10


def philox(counter: NDArray[np.uint64], key: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Four 32-bit words per row from counter [N, 4] and key [N, 2], all held in the low half of uint64."""
    c0, c1, c2, c3 = (counter[:, i] for i in range(4))
    k0, k1 = key[:, 0], key[:, 1]
    for _ in range(_ROUNDS):
        product_0, product_1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (product_1 >> _32) ^ c1 ^ k0, product_1 & _LOW, (product_0 >> _32) ^ c3 ^ k1, product_0 & _LOW
        k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
    return np.stack([c0, c1, c2, c3], axis=1)


def uniforms(seeds: list[int], positions: list[int]) -> NDArray[np.float64]:
    """One number in [0, 1) with 53 random bits for each (seed, position)."""
    key = np.array([[seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF] for seed in seeds], dtype=np.uint64)
    counter = np.array([[p & 0xFFFFFFFF, p >> 32, 0, 0] for p in positions], dtype=np.uint64)
    words = philox(counter.reshape(-1, 4), key.reshape(-1, 2))
    high, low = words[:, 0] >> np.uint64(5), words[:, 1] >> np.uint64(6)
    return (high.astype(np.float64) * 2.0**26 + low.astype(np.float64)) * 2.0**-53
