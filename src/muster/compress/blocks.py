"""Codecs of few bits: int8 and int4, symmetric, with one scale for each block of values that are neighbours in a row.

    [scales, bfloat16: rows x blocks] [values: 1 byte each, or 2 in a byte with the first in the low half]

    scale = largest |value| of the block / largest integer        value ~ integer x scale

A row's last block may be shorter. bfloat16 reaches as far as float32, so no scale overflows. A block whose scale would
be below the least normal float is sent as zeros: machines disagree about what lies below.

Every machine makes the same bytes of the same values: each step is one IEEE operation that rounds to nearest, ties to
even. A division by a constant would not be (some devices multiply by its inverse).
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from muster.compress.matrix import (
    bytes_of,
    check_length,
    checked,
    header_of,
    not_a_number,
    payload_of,
    pieces,
    size,
    within,
)
from muster.errors import MalformedFrame
from muster.wire.messages.base import TensorHeader

BLOCK = 128
"""Values that share a scale. Half as many lose a little less and send a quarter of a bit more for each value."""
SCALE_BYTES = 2
LARGEST = {"int8": 127, "int4": 7}
"""Integer, by codec."""
_LEAST_SCALE = torch.finfo(torch.bfloat16).smallest_normal
_OFFSET = 8
"""What makes a number without a sign of four bits with one."""


class BlockwiseCodec:
    """Implements `Encode` and `Decode`, for one of `LARGEST`."""

    def __init__(self, name: str) -> None:
        self.name, self._largest = name, LARGEST[name]
        self._halves = name == "int4"

    def encode(self, tensor: Tensor) -> tuple[TensorHeader, memoryview]:
        header = header_of(tensor, self.name)
        rows, width = size(header.shape)
        scale_bytes, value_bytes = self._row_bytes(width)
        values_RH = tensor.detach().reshape(rows, width)
        packed_N = torch.empty(rows * (scale_bytes + value_bytes), dtype=torch.uint8, device=tensor.device)
        scales_RS = packed_N[: rows * scale_bytes].view(torch.bfloat16).view(rows, -1) if rows * width else packed_N
        bytes_RV = packed_N[rows * scale_bytes :].view(rows, value_bytes)
        for piece in pieces(rows, width, tensor.device):
            self._pack(values_RH[piece], scales_RS[piece], bytes_RV[piece])
        return header, payload_of(packed_N)

    def decode(self, header: TensorHeader, payload: bytes | bytearray | memoryview, max_bytes: int) -> Tensor:
        dtype, rows, width = checked(header, max_bytes)
        scale_bytes, value_bytes = self._row_bytes(width)
        check_length(header, len(payload), rows * (scale_bytes + value_bytes))
        tensor_RH = torch.empty(rows, width, dtype=dtype)
        if tensor_RH.numel():
            packed_N = bytes_of(payload)
            scales_RS = packed_N[: rows * scale_bytes].view(torch.bfloat16).view(rows, -1).float()
            if not bool((scales_RS.isfinite() & (scales_RS >= 0)).all()):
                raise MalformedFrame("A hidden state came with a scale that is no number; the sender is broken.")
            bytes_RV = packed_N[rows * scale_bytes :].view(rows, value_bytes)
            for piece in pieces(rows, width, tensor_RH.device):
                tensor_RH[piece] = self._unpack(bytes_RV[piece], scales_RS[piece], width, dtype)
        return tensor_RH.view(header.shape)

    def _row_bytes(self, width: int) -> tuple[int, int]:
        """Of scales, of values."""
        return SCALE_BYTES * -(-width // BLOCK), -(-width // 2) if self._halves else width

    def _pack(self, values_RH: Tensor, scales_RS: Tensor, bytes_RV: Tensor) -> None:
        values_RSB = _in_blocks(values_RH.float())
        work_RSB = values_RSB.abs()
        largest_RS = work_RSB.amax(dim=2)
        if not bool(largest_RS.isfinite().all()):
            raise not_a_number()
        scales_RS.copy_(largest_RS.mul_(1 / self._largest))
        usable_RS = torch.where(scales_RS < _LEAST_SCALE, torch.inf, scales_RS.float())
        # A scale is rounded by a share of 2^-9 at most, so nothing is rounded beyond the largest integer.
        torch.div(values_RSB, usable_RS[:, :, None], out=work_RSB).round_()
        whole_RH = work_RSB.view(len(values_RH), -1)[:, : values_RH.shape[1]]
        if not self._halves:
            bytes_RV.view(torch.int8).copy_(whole_RH)
            return
        apart_RV = _even(whole_RH.add_(_OFFSET).to(torch.uint8)).view(torch.int16)  # the first in the low byte
        bytes_RV.copy_(apart_RV.bitwise_or_(apart_RV >> 4).bitwise_and_(0xFF))

    def _unpack(self, bytes_RV: Tensor, scales_RS: Tensor, width: int, dtype: torch.dtype) -> Tensor:
        whole_RH = _halves(bytes_RV)[:, :width].float().sub_(_OFFSET) if self._halves else bytes_RV.view(torch.int8)
        values_RSB = _in_blocks(whole_RH) * scales_RS[:, :, None]
        return within(values_RSB, dtype).view(len(bytes_RV), -1)[:, :width]


def _in_blocks(values_RH: Tensor) -> Tensor:
    """[R, S, B], zeros behind a short end."""
    short = -values_RH.shape[1] % BLOCK
    filled_RH = pad(values_RH, (0, short)) if short else values_RH
    return filled_RH.reshape(len(values_RH), -1, BLOCK)


def _even(values_RH: Tensor) -> Tensor:
    return pad(values_RH, (0, 1)) if values_RH.shape[1] % 2 else values_RH.contiguous()


def _halves(bytes_RV: Tensor) -> Tensor:
    """uint8 [R, 2 V]: of each byte the low half, then the high one."""
    apart_RV = bytes_RV.to(torch.int16)
    return apart_RV.bitwise_or_(apart_RV << 4).bitwise_and_(0x0F0F).view(torch.uint8)
