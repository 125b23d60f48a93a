"""Numbers to codes of a few bits in groups, and back. Knows no model and no file.

    value = code x step + middle          code from -2^(b-1) to 2^(b-1) - 1

Step and middle are rounded to the dtype they are kept in before codes are made, the step upwards, so that no number of
a group is further than half a (kept) step from what comes back: also where the range is tiny or nothing at all, and
where padding fills the last group (it repeats the last number, so that it widens no range).
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad


def unflatten(x: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
    """A dimension as several; `torch` has no types for it."""
    made: Tensor = x.unflatten(dim, sizes)  # type: ignore[no-untyped-call]
    return made


def grouped(x: Tensor, group: int) -> Tensor:
    """[..., K] -> [..., C, group]; the last group is filled with its own last number."""
    missing = -x.shape[-1] % group
    if missing:
        x = torch.cat([x, x[..., -1:].expand(*x.shape[:-1], missing)], dim=-1)
    return unflatten(x, -1, (-1, group))


def quantize(x: Tensor, bits: int, group: int, kept: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Codes as int8 [..., K], step and middle [..., C] in `kept`. Infinite or undefined numbers count as 0."""
    high = 2 ** (bits - 1)
    x_CG = grouped(x.float().nan_to_num(0.0, 0.0, 0.0), group)
    least, most = x_CG.amin(-1), x_CG.amax(-1)
    middle = (least + (most - least) * (high / (2 * high - 1))).to(kept)
    mid = middle.float()
    # What codes reach, half a step further: from mid - (high + 1/2) step to mid + (high - 1/2) step.
    step = rounded_up(torch.maximum((most - mid) / (high - 0.5), (mid - least) / (high + 0.5)), kept)
    return _codes(x_CG, step, mid, high)[..., : x.shape[-1]], step, middle


def quantize_even(x: Tensor, bits: int, kept: torch.dtype) -> tuple[Tensor, Tensor]:
    """Codes as int8 [..., K] around zero, with one step for each row: [..., 1] in `kept`."""
    high = 2 ** (bits - 1) - 1
    x = x.float().nan_to_num(0.0, 0.0, 0.0)
    step = rounded_up(x.abs().amax(-1, keepdim=True) / high, kept)
    codes = torch.where(step > 0, x / step.float(), 0.0).round_().clamp_(-high, high)
    return codes.to(torch.int8), step


def dequantize(codes: Tensor, step: Tensor, middle: Tensor, group: int) -> Tensor:
    """[..., K] in float32."""
    size = codes.shape[-1]
    spread = codes.float()
    whole = size % group == 0
    if not whole:
        spread = pad(spread, (0, -size % group))
    values = torch.addcmul(middle.float()[..., None], unflatten(spread, -1, (-1, group)), step.float()[..., None])
    flat = values.flatten(-2)
    return flat if whole else flat[..., :size]


def rounded_up(x: Tensor, kept: torch.dtype) -> Tensor:
    """To the next number of `kept` that is not smaller."""
    rounded = x.to(kept)
    return torch.where(rounded.float() < x, torch.nextafter(rounded, torch.full_like(rounded, torch.inf)), rounded)


def _codes(x_CG: Tensor, step: Tensor, middle: Tensor, high: int) -> Tensor:
    width = step.float()[..., None]
    codes = torch.where(width > 0, (x_CG - middle[..., None]) / width, 0.0).round_().clamp_(-high, high - 1)
    return codes.to(torch.int8).flatten(-2)


def to_nibbles(codes: Tensor) -> Tensor:
    """Codes from -8 to 7, int8 [..., K] -> bytes [..., (K+1)//2]: column j below, column j + (K+1)//2 above.

    Halves and not neighbours, so that unpacking writes two whole runs.
    """
    half = (codes.shape[-1] + 1) // 2
    shifted = (codes + 8).to(torch.uint8)
    above = pad(shifted[..., half:], (0, half * 2 - codes.shape[-1]))
    return shifted[..., :half] | (above << 4)


def from_nibbles(data: Tensor, size: int) -> Tensor:
    """The codes as int8 [..., size]."""
    return torch.cat([data & 15, data >> 4], dim=-1)[..., :size].to(torch.int8).sub_(8)
