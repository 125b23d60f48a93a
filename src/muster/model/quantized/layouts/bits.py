"""Integers of a few bits that are packed into wider ones, lowest bits first. Knows no layout."""

import torch
from torch import Tensor


def unpack_last(packed: Tensor, bits: int, size: int | None = None) -> Tensor:
    """int32 [..., W] -> uint8 [..., W x 32 / bits], or the first `size` of them."""
    shifts = torch.arange(0, 32, bits, dtype=torch.int32)
    codes: Tensor = (packed[..., None] >> shifts) & (2**bits - 1)
    return codes.to(torch.uint8).flatten(-2)[..., :size]


def unpack_first(packed: Tensor, bits: int, size: int | None = None) -> Tensor:
    """int32 [W, N] -> uint8 [W x 32 / bits, N], or the first `size` rows of it."""
    return unpack_last(packed.t(), bits, size).t()


def signed(codes: Tensor, bits: int) -> Tensor:
    """uint8 codes from 0 on, as int8 around zero."""
    return (codes.to(torch.int16) - (1 << (bits - 1))).to(torch.int8)
