"""Numbers as integers: x stands as round(x * 2**bits). What that rounding costs, as a bound and not as an estimate.

In a proof system every number is an integer modulo a prime of 254 bits. Products and sums of such integers are exact,
so a linear operator errs only by how its inputs and weights were rounded.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from muster.errors import InvalidRequest

MODULUS = 21888242871839275222246405745257275088548364400416034343698204186575808495617
"""Of the scalars of BN254."""
LARGEST_BITS = 100
"""ezkl computes witnesses in signed integers of 128 bits; with room for sums."""

Numbers = npt.NDArray[np.float64]


def rounded(values: Numbers, bits: int) -> list[int]:
    """Each as an integer. Halves go away from zero, as in ezkl."""
    scaled = np.abs(values) * 2.0**bits
    return [int(sign * np.floor(one + 0.5)) for sign, one in zip(np.sign(values).flat, scaled.flat, strict=True)]


def product_error(x_K: Numbers, largest_w: float, x_bits: int, w_bits: int) -> float:
    """How far the product of a row of weights with `x_K` may be from the exact one, for any row of size `largest_w`.

    |sum (x + dx)(w + dw) - sum x w|  <=  sum |x| ew + |w| ex + ex ew,    ex = 2**-(x_bits + 1), ew alike
    """
    ex, ew = 2.0 ** -(x_bits + 1), 2.0 ** -(w_bits + 1)
    return float(np.abs(x_K).sum() * ew + len(x_K) * (largest_w * ex + ex * ew)) * (1 + 2.0**-40)


def check_range(x_K: Numbers, largest_w: float, x_bits: int, w_bits: int) -> None:
    """Raise `InvalidRequest` where integers of this size would wrap around."""
    if not np.isfinite(x_K).all() or not np.isfinite(largest_w):
        raise InvalidRequest("The disputed operator has numbers that are not finite; those need no proof, only a look.")
    largest = float(np.abs(x_K).sum() + len(x_K)) * (largest_w + 1.0)
    if largest * 2.0 ** (x_bits + w_bits) >= 2.0**LARGEST_BITS:
        raise InvalidRequest(
            f"Numbers up to {largest:.3g} with {x_bits} + {w_bits} bits behind the point are outside the quantised "
            "range; give fewer bits (--bits)."
        )


def signed(residue: int) -> int:
    """The integer of smallest size that this is modulo the prime."""
    return residue - MODULUS if residue > MODULUS // 2 else residue


def from_words(words: Sequence[str]) -> list[int]:
    """ezkl's field elements: hexadecimal, little endian. Raises `ValueError` where one is none."""
    found = [int.from_bytes(bytes.fromhex(word), "little") for word in words]
    if any(len(word) != 64 for word in words) or any(one >= MODULUS for one in found):
        raise ValueError("no element of the field")
    return [signed(one) for one in found]
