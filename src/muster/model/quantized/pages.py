"""Keys and values in few bits: how one head's vector lies in a page. Knows no page table.

    bytes of a vector of D numbers      codes | step and middle of each group of 64, in bfloat16

Each token's key and each token's value of each head has groups of its own, so that a page is written token by token and
nothing in it is ever quantised a second time.
"""

import torch
from torch import Tensor

from muster.cost.few_bits import CACHE_FORMATS, GROUP
from muster.model.quantized.codec import dequantize, from_nibbles, quantize, to_nibbles


def to_bytes(x: Tensor, kept: str) -> Tensor:
    """[..., D] -> uint8 [..., bytes of a vector]."""
    bits = CACHE_FORMATS[kept].bits
    codes, step, middle = quantize(x, bits, GROUP, torch.bfloat16)
    data = to_nibbles(codes) if bits == 4 else codes.view(torch.uint8)
    steps = torch.cat([step, middle], -1).contiguous().view(torch.uint8)
    return torch.cat([data, steps], -1)


def from_bytes(data: Tensor, size: int, kept: str, dtype: torch.dtype) -> Tensor:
    """[..., D] of what `to_bytes` made of vectors of `size` numbers."""
    bits = CACHE_FORMATS[kept].bits
    split = -(-size * bits // 8)
    codes = from_nibbles(data[..., :split], size) if bits == 4 else data[..., :split].view(torch.int8)
    steps = data[..., split:].contiguous().view(torch.bfloat16)
    step, middle = steps.chunk(2, -1)
    return dequantize(codes, step, middle, GROUP).to(dtype)
