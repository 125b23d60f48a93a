"""Whole numbers of 1 to 8 bits side by side, as many rows at a time as there are. Knows nothing of what they stand for.

Eight numbers of b bits fill b bytes, the first in the lowest bits. They get there in three steps, each of which closes
the gaps between neighbours in all words at once:

    0000aaaa 0000bbbb  ->  00000000 bbbbaaaa  ->  ...        bytes, then words of 16, 32 and 64 bits
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

_STEPS = ((8, torch.int16), (16, torch.int32), (32, torch.int64))
"""Bits between neighbours, and the word that holds two."""
_UNITS = {
    1: torch.uint8,
    2: torch.int16,
    3: torch.uint8,
    4: torch.int32,
    5: torch.uint8,
    6: torch.int16,
    7: torch.uint8,
}
"""The largest word that b bytes are a multiple of, by b: what is copied at once."""


def packed_bytes(count: int, bits: int) -> int:
    """Of a row of `count` numbers."""
    return count if bits == 8 else -(-count // 8) * bits


def pack(numbers_RV: Tensor, bits: int) -> Tensor:
    """uint8 [R, `packed_bytes`] of uint8 [R, V], each below 2^bits. What is left of a last byte is zero."""
    if bits == 8 or not numbers_RV.numel():
        return numbers_RV
    short = -numbers_RV.shape[1] % 8
    words = (pad(numbers_RV, (0, short)) if short else numbers_RV.contiguous()).flatten()
    held = bits
    for apart, dtype in _STEPS:
        words = words.view(dtype)
        low = (1 << held) - 1
        upper = (words >> (apart - held)).bitwise_and_(low << held)
        words = (words & low).bitwise_or_(upper)
        held *= 2
    unit = _UNITS[bits]
    units = words.view(unit).view(-1, 8 // unit.itemsize)[:, : bits // unit.itemsize]
    return units.contiguous().view(torch.uint8).view(len(numbers_RV), -1)


def unpack(packed_RP: Tensor, bits: int, count: int) -> Tensor:
    """uint8 [R, `count`]: undoes `pack`."""
    if bits == 8 or not packed_RP.numel():
        return packed_RP[:, :count]
    unit = _UNITS[bits]
    units = packed_RP.contiguous().view(-1).view(torch.uint8)
    groups = units.numel() // bits
    words_GU = torch.zeros(groups, 8 // unit.itemsize, dtype=unit, device=packed_RP.device)
    words_GU[:, : bits // unit.itemsize] = _as(units, unit).view(groups, -1)
    words = words_GU.flatten().view(torch.int64)
    held = bits * 4
    for apart, dtype in reversed(_STEPS):
        words = words.view(dtype)
        low = (1 << held) - 1
        upper = (words << (apart - held)).bitwise_and_(low << apart)
        words = (words & low).bitwise_or_(upper)
        held //= 2
    return words.view(torch.uint8).view(len(packed_RP), -1)[:, :count]


def _as(units: Tensor, dtype: torch.dtype) -> Tensor:
    """A payload may begin anywhere; a view of wider words may not."""
    if units.storage_offset() % dtype.itemsize or units.data_ptr() % dtype.itemsize:
        units = units.clone()
    return units.view(dtype)
