"""Fingerprints of what crosses a boundary: a few numbers of every token, at places that only the request decides.

    rows [T, H]  ->  VALUES_PER_TOKEN columns of each row, drawn by (request, layer, position), 16 bits each

Rounding errs a little everywhere, and so do coarser weights, other weights and left-out work, only more. So a few
numbers at random places tell as much of the size of the error as the largest ones do (J. Ong et al., "TOPLOC", 2025)
or as projections (A. Karvonen et al., "DiFR", 2025), and more where some channels are many times as large as the rest,
since whoever checks can weigh each by its own scale. They cost no arithmetic, are the same whatever the batch and the
chunks, and both ends of a boundary get the very same bits.

Legend: T tokens, K values of each token, H columns (hidden size, or vocabulary for logits).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from blake3 import blake3
from torch import Tensor

from muster.errors import ProtocolViolation
from muster.spec.receipt import TOKENS_PER_BLOCK, VALUE_BYTES, VALUES_PER_TOKEN

Floats = npt.NDArray[np.float64]
Words = npt.NDArray[np.uint64]
RESOLUTION = 2.0**-8 / (TOKENS_PER_BLOCK * VALUES_PER_TOKEN)
"""What one value of a block that is rounded the other way adds to the drift."""
_CHANNEL_SHARE = 0.1
"""A channel counts as at least so large, as a part of the mean channel: one that is always zero must not divide."""


def key_of(request: str, layer: int) -> int:
    """64 bits from which the places of a request's values at one boundary follow."""
    return int.from_bytes(blake3(f"muster fingerprint {request} {layer}".encode()).digest(8), "little")


def places(key: int | Words, positions: Sequence[int] | npt.NDArray[np.int64], columns: int) -> npt.NDArray[np.int64]:
    """[T, K]: which columns of the rows at these positions. `key` may be one for each row, [T, 1]."""
    each = np.arange(VALUES_PER_TOKEN, dtype=np.uint64)
    counters: Words = np.asarray(positions, dtype=np.uint64)[:, None] * np.uint64(VALUES_PER_TOKEN) + each
    words = _mixed(counters + np.asarray(key, dtype=np.uint64))
    return (words % np.uint64(columns)).astype(np.int64)


def _mixed(words: Words) -> Words:
    """splitmix64 (G. Steele, D. Lea, C. Flood, 2014)."""
    with np.errstate(over="ignore"):
        z = words * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)))


def taken(rows_TH: Tensor, places_TK: npt.NDArray[np.int64]) -> bytes:
    """The values at these places, T * K * 2 bytes: in the rows' own type where that has 16 bits, else in bfloat16."""
    values_TK = rows_TH.gather(1, torch.from_numpy(places_TK).to(rows_TH.device))
    return values_TK.to(_kept_as(rows_TH.dtype)).cpu().contiguous().view(torch.uint8).numpy().tobytes()


def opened(values: bytes, dtype: str) -> Floats:
    """[T, K] from what `taken` wrote of rows of this dtype. Raises `ProtocolViolation` for an absurd length."""
    size = VALUE_BYTES * VALUES_PER_TOKEN
    if len(values) % size or not values:
        raise ProtocolViolation(f"A receipt has {len(values)} bytes of values, which is no multiple of {size}.")
    kept = _kept_as(getattr(torch, dtype))
    numbers = torch.frombuffer(bytearray(values), dtype=kept).double().numpy()
    return np.asarray(numbers.reshape(-1, VALUES_PER_TOKEN))


def drift(claimed_TK: Floats, true_TH: Tensor, places_TK: npt.NDArray[np.int64], dtype: str) -> Floats:
    """[T]: how far what a machine claims is from what it should have computed, as a part of what stands there.

    The scale of a number is that of its row times that of its column over the whole request. What is claimed to be NaN
    or infinite is infinitely far away, unless it should be.
    """
    true_TH = true_TH.float()
    column_H, row_T = true_TH.pow(2).mean(dim=0).sqrt(), true_TH.pow(2).mean(dim=1).sqrt().numpy()
    mean = float(true_TH.pow(2).mean().sqrt())
    scale_H = (column_H / mean + _CHANNEL_SHARE).numpy()
    true_TK = opened(taken(true_TH.to(getattr(torch, dtype)), places_TK), dtype)
    with np.errstate(invalid="ignore", over="ignore"):
        apart_TK = np.abs(claimed_TK - true_TK) / (row_T[:, None] * scale_H[places_TK])
    apart_TK[~np.isfinite(apart_TK)] = np.inf
    apart_TK[~np.isfinite(true_TK) & ~np.isfinite(claimed_TK)] = 0.0
    return np.asarray(apart_TK.mean(axis=1), dtype=np.float64)


def _kept_as(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype in (torch.bfloat16, torch.float16) else torch.bfloat16
