"""Codecs that send each value in another type of float: fp32, bf16, and fp16 with a power of two for each row.

    fp32, bf16    [values]
    fp16          [values x 2^-e] [exponents e, one byte a row]

fp16 ends at 65,504, and hidden states do not: e is 0 for a row that fits and grows by one with each doubling of its
largest value beyond 2^15, so nothing overflows. (An fp16 wire without it has been seen to corrupt the router of a
mixture of experts.) Multiplying by a power of two changes no digit.
"""

from math import isfinite

import torch
from torch import Tensor

from muster.compress.matrix import (
    bytes_of,
    check_length,
    checked,
    header_of,
    largest,
    not_a_number,
    payload_of,
    pieces,
    size,
    within,
)
from muster.errors import MalformedFrame
from muster.wire.messages.base import TensorHeader

CASTS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LARGEST_EXPONENT = 113
"""Of the largest float32, which is just below 2^128."""
_KEPT_EXPONENT = 15
_FLOAT32_BIAS = 127
_FLOAT32_DIGITS = 23


class Cast:
    """Implements `Encode` and `Decode`, for one of `CASTS`."""

    def __init__(self, name: str) -> None:
        self.name, self._dtype = name, CASTS[name]
        self._scales = self._dtype == torch.float16

    def encode(self, tensor: Tensor) -> tuple[TensorHeader, memoryview]:
        header = header_of(tensor, self.name)
        rows, width = size(header.shape)
        values_RH = tensor.detach().reshape(rows, width)
        packed_N = torch.empty(self._bytes(rows, width), dtype=torch.uint8, device=tensor.device)
        cast_RH, exponents_R = self._parts(packed_N, rows, width)
        for piece in pieces(rows, width, tensor.device):
            self._pack(values_RH[piece], cast_RH[piece], exponents_R[piece])
        return header, payload_of(packed_N)

    def decode(self, header: TensorHeader, payload: bytes | bytearray | memoryview, max_bytes: int) -> Tensor:
        dtype, rows, width = checked(header, max_bytes)
        check_length(header, len(payload), self._bytes(rows, width))
        cast_RH, exponents_R = self._parts(bytes_of(payload), rows, width)
        if exponents_R.numel() and int(exponents_R.max()) > LARGEST_EXPONENT:
            raise MalformedFrame("A hidden state came with a scale that no float has; the sender runs other code.")
        tensor_RH = torch.empty(rows, width, dtype=dtype)
        for piece in pieces(rows, width, tensor_RH.device):
            tensor_RH[piece] = self._unpack(cast_RH[piece], exponents_R[piece], dtype)
        return tensor_RH.view(header.shape)

    def _bytes(self, rows: int, width: int) -> int:
        return rows * width * self._dtype.itemsize + (rows if self._scales and width else 0)

    def _parts(self, packed_N: Tensor, rows: int, width: int) -> tuple[Tensor, Tensor]:
        """Values [R, H] and exponents, of which there are none where nothing is scaled."""
        end = rows * width * self._dtype.itemsize
        return packed_N[:end].view(self._dtype).view(rows, width), packed_N[end:]

    def _pack(self, values_RH: Tensor, cast_RH: Tensor, exponents_R: Tensor) -> None:
        most = largest(values_RH)
        if not isfinite(most):
            raise not_a_number()
        if self._scales:
            needed_R = _exponents(values_RH)
            exponents_R.copy_(needed_R)
            if most > 2**_KEPT_EXPONENT:
                values_RH = values_RH.float() * _power_of_two(-needed_R)[:, None]
        elif most > torch.finfo(self._dtype).max:
            values_RH = within(values_RH.float().clone(), self._dtype)
        cast_RH.copy_(values_RH)

    def _unpack(self, cast_RH: Tensor, exponents_R: Tensor, dtype: torch.dtype) -> Tensor:
        if not isfinite(largest(cast_RH)):
            raise MalformedFrame("A hidden state came with what is no number; the sender is broken, or cheats.")
        if not bool(exponents_R.any()):
            return cast_RH if torch.finfo(self._dtype).max <= torch.finfo(dtype).max else within(cast_RH.float(), dtype)
        return within(cast_RH.float() * _power_of_two(exponents_R)[:, None], dtype)


def _exponents(values_RH: Tensor) -> Tensor:
    """int32 [R]: by how many powers of two the rows are too large."""
    _, exponents_R = torch.frexp(values_RH.abs().amax(dim=1).float())
    return (exponents_R - _KEPT_EXPONENT).clamp_(min=0)


def _power_of_two(exponents_R: Tensor) -> Tensor:
    """float32, exact: made from the bits, since a library may round what it makes of a logarithm."""
    return ((exponents_R.int() + _FLOAT32_BIAS) << _FLOAT32_DIGITS).view(torch.float32)
