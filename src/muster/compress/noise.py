"""Random numbers by count: the same seed and counter give the same noise on every machine. Keeps no state.

Whole numbers of 32 bits are mixed by multiplying and shifting (the constants of Chris Wellons' `lowbias32`); nothing
in it is rounded, so no device differs. Good enough for rounding and choosing, not for secrets.
"""

import torch
from torch import Tensor

_FIRST, _SECOND = 0x7FEB352D, 0x846CA68B - 2**32
_KEY = 0x9E3779B9
_MASK = 2**32 - 1


def mixed(count: int, seed: int, counter: int, device: torch.device, start: int = 0) -> Tensor:
    """int32 [count], all bits random: the numbers `start`, `start` + 1 and so on of the draw `counter`."""
    one, two = (_signed((seed * _KEY + counter) * factor + factor) for factor in (0x85EBCA6B, 0xC2B2AE35))
    x = torch.arange(start, start + count, dtype=torch.int32, device=device).bitwise_xor_(one)
    _shift(x, 16).mul_(_FIRST)
    _shift(x, 15).bitwise_xor_(two).mul_(_SECOND)
    _shift(x, 16).mul_(_FIRST)
    return _shift(x, 15)


def uniform(count: int, seed: int, counter: int, device: torch.device, start: int = 0) -> Tensor:
    """float32 [count] in [0, 1), of 24 bits each."""
    return (mixed(count, seed, counter, device, start) >> 8).bitwise_and_(2**24 - 1).float().mul_(2.0**-24)


def _shift(x: Tensor, bits: int) -> Tensor:
    """x ^ (x >> bits) without a sign, in place."""
    return x.bitwise_xor_((x >> bits).bitwise_and_((1 << (32 - bits)) - 1))


def _signed(number: int) -> int:
    number &= _MASK
    return number - 2**32 if number >= 2**31 else number
