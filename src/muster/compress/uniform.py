"""Codecs of k bits, 1 to 8: evenly spaced levels, with a scale for each channel, for each token or for each 32 values.

    channel, token    [scales, bfloat16] [numbers, packed row by row]
    group             [exponent e, int16] [steps x 2^-e, float16] [least values x 2^-e, float16] [numbers, likewise]

        value ~ least + number x step

Of a channel or token only its largest |value| s is sent. Rounded to the nearest, the levels are those of AQ-SGD's code
(github.com/DS3Lab/AC-SGD at 95a0f2e): step s / 2^(k-1) from -s on, so that +s itself becomes one step less. With one
bit they are plus and minus the mean |value| (Seide et al., 2014). Rounded at random, all levels lie evenly between -s
and +s, both included: nothing is cut off, and the mean of what comes out is what went in, as the theorem of AQ-SGD
asks for and its code does not. A group's levels lie evenly between its least and its greatest value; both are levels,
which at 8 bits is worth 4 % of the error and the reason for float16, with an exponent for the whole message.

Where rounding is at random, and in groups, marks are rounded outwards, so that no value lies beyond its levels.
"""

from math import frexp, prod
from typing import Literal

import torch
from torch import Tensor

from muster.compress.cast import LARGEST_EXPONENT
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
from muster.compress.noise import uniform
from muster.compress.packing import pack, packed_bytes, unpack
from muster.errors import MalformedFrame
from muster.wire.messages.base import TensorHeader

Share = Literal["channel", "token", "group"]
"""Who shares a scale: a column of the whole message, a row, or 32 neighbours in a row."""
GROUP = 32
_EXPONENT_BYTES = 2
_KEPT_EXPONENT, _LEAST_EXPONENT = 15, -126
_BF16 = torch.finfo(torch.bfloat16)


class UniformCodec:
    """Implements `Encode` and `Decode`."""

    def __init__(self, name: str, share: Share, bits: int, stochastic: bool = False, seed: int = 0) -> None:
        """`seed` is of the noise; each message draws its own."""
        self.name, self._share, self._bits, self._stochastic, self._seed = name, share, bits, stochastic, seed
        self._most = 2**bits - 1
        self._messages = 0

    def encode(self, tensor: Tensor) -> tuple[TensorHeader, memoryview]:
        header = header_of(tensor, self.name)
        rows, width = size(header.shape)
        values_RH = tensor.detach().reshape(rows, width)
        packed_N = torch.empty(self._bytes(rows, width), dtype=torch.uint8, device=tensor.device)
        if packed_N.numel():
            end = self._mark_bytes(rows, width)
            packed_N[:end], marks_2RSB = self._written(self._marks(values_RH))
            bytes_RV = packed_N[end:].view(rows, -1)
            for piece in pieces(rows, width, tensor.device):
                numbers_RH = self._numbers(values_RH[piece], self._of(marks_2RSB, piece), piece.start * width)
                bytes_RV[piece] = pack(numbers_RH, self._bits)
        self._messages += 1
        return header, payload_of(packed_N)

    def decode(self, header: TensorHeader, payload: bytes | bytearray | memoryview, max_bytes: int) -> Tensor:
        dtype, rows, width = checked(header, max_bytes)
        check_length(header, len(payload), self._bytes(rows, width))
        tensor_RH = torch.empty(rows, width, dtype=dtype)
        if tensor_RH.numel():
            packed_N = bytes_of(payload)
            end = self._mark_bytes(rows, width)
            marks_2RSB = self._read(packed_N[:end].clone()).view(self._mark_shape(rows, width))
            bytes_RV = packed_N[end:].view(rows, -1)
            for piece in pieces(rows, width, tensor_RH.device):
                least_RSB, step_RSB = self._levels(self._of(marks_2RSB, piece))
                numbers_RH = unpack(bytes_RV[piece], self._bits, width).float()
                values_RSB = self._in_groups(numbers_RH).mul_(step_RSB).add_(least_RSB)
                tensor_RH[piece] = within(values_RSB.view(len(numbers_RH), -1)[:, :width], dtype)
        return tensor_RH.view(header.shape)

    def _bytes(self, rows: int, width: int) -> int:
        if not rows * width:
            return 0
        return self._mark_bytes(rows, width) + rows * packed_bytes(width, self._bits)

    def _mark_bytes(self, rows: int, width: int) -> int:
        return _EXPONENT_BYTES * (self._share == "group") + 2 * prod(self._mark_shape(rows, width))

    def _mark_shape(self, rows: int, width: int) -> tuple[int, int, int, int]:
        """[marks of each, R, S, B], where a size of one is shared."""
        if self._share == "channel":
            return 1, 1, 1, width
        return (1, rows, 1, 1) if self._share == "token" else (2, rows, -(-width // GROUP), 1)

    def _written(self, marks_2RSB: Tensor) -> tuple[Tensor, Tensor]:
        """As bytes, and as the other side reads them."""
        if self._share != "group":
            # Cutting off a largest value by a share of 2^-9 loses less than wider steps everywhere.
            rounded = _up(marks_2RSB) if self._stochastic else marks_2RSB
            written = rounded.to(torch.bfloat16)
            return written.flatten().view(torch.uint8), written.float()
        exponent = _exponent(largest(marks_2RSB))
        scaled_2RSB = marks_2RSB * 2.0**-exponent
        written = torch.stack((_half_above(scaled_2RSB[0]), -_half_above(-scaled_2RSB[1])))
        prefix = torch.tensor([exponent], dtype=torch.int16, device=written.device).view(torch.uint8)
        return torch.cat((prefix, written.flatten().view(torch.uint8))), written.float() * 2.0**exponent

    def _read(self, written_N: Tensor) -> Tensor:
        """Raises `MalformedFrame` for what `_written` never writes."""
        if self._share == "group":
            exponent = int(written_N[:_EXPONENT_BYTES].view(torch.int16))
            known = _LEAST_EXPONENT <= exponent <= LARGEST_EXPONENT
            marks = written_N[_EXPONENT_BYTES:].view(torch.float16).float() * (2.0**exponent if known else torch.inf)
            scales = marks[: len(marks) // 2]
        else:
            marks = scales = written_N.view(torch.bfloat16).float()
        if not bool(marks.isfinite().all()) or bool((scales < 0).any()):
            raise MalformedFrame("A tensor came with a scale that is no number; the sender is broken.")
        return marks

    def _of(self, marks_2RSB: Tensor, piece: slice) -> Tensor:
        return marks_2RSB if self._share == "channel" else marks_2RSB[:, piece]

    def _in_groups(self, values_RH: Tensor) -> Tensor:
        """float32 [R, S, B]; a short end is filled with its last value, which changes no mark."""
        values_RH = values_RH.float()
        if self._share != "group":
            return values_RH[:, None, :]
        short = -values_RH.shape[1] % GROUP
        if short:
            values_RH = torch.cat((values_RH, values_RH[:, -1:].expand(-1, short)), dim=1)
        return values_RH.reshape(len(values_RH), -1, GROUP)

    def _marks(self, values_RH: Tensor) -> Tensor:
        """float32: of a group its step and its least value. Raises `MachineTrouble` for what is no number."""
        rows, width = values_RH.shape
        found = [self._marks_of(values_RH[piece]) for piece in pieces(rows, width, values_RH.device)]
        if self._share == "channel":
            stacked = torch.stack(found)
            whole = stacked.sum(dim=0).div_(rows) if self._averages else stacked.amax(dim=0)
        else:
            whole = torch.cat(found, dim=1)
        if not bool(whole.isfinite().all()):
            raise not_a_number()
        if self._share != "group":
            return whole
        # Parts of the range, since the whole may be beyond the largest float.
        step = (whole[0] * (1 / self._most) - whole[1] * (1 / self._most)).clamp_(0, torch.finfo(torch.float32).max / 2)
        return torch.stack((step, whole[1]))

    @property
    def _averages(self) -> bool:
        return self._bits == 1 and not self._stochastic

    def _marks_of(self, values_RH: Tensor) -> Tensor:
        values_RSB = self._in_groups(values_RH)
        if self._share == "group":
            return torch.stack((values_RSB.amax(dim=2, keepdim=True), values_RSB.amin(dim=2, keepdim=True)))
        dim = 0 if self._share == "channel" else 2
        sizes_RSB = values_RSB.abs()
        if not self._averages:
            return sizes_RSB.amax(dim=dim, keepdim=True)[None]
        return (sizes_RSB.sum(dim=0, keepdim=True) if dim == 0 else sizes_RSB.mean(dim=2, keepdim=True))[None]

    def _levels(self, marks_2RSB: Tensor) -> tuple[Tensor, Tensor]:
        """(least, step) of each number."""
        scale_RSB = marks_2RSB[0]
        if self._share == "group":
            return marks_2RSB[1], scale_RSB
        if self._stochastic or self._bits == 1:
            return -scale_RSB, scale_RSB * (2 / self._most)
        return -scale_RSB, scale_RSB * 2.0 ** (1 - self._bits)

    def _numbers(self, values_RH: Tensor, marks_2RSB: Tensor, first: int) -> Tensor:
        """uint8 [R, H]; the first value is the `first` of the message."""
        least_RSB, step_RSB = self._levels(marks_2RSB)
        step_RSB = torch.where(step_RSB < _BF16.smallest_normal, torch.inf, step_RSB)
        steps_RSB = (self._in_groups(values_RH) - least_RSB).div_(step_RSB)
        steps_RH = steps_RSB.view(len(values_RH), -1)[:, : values_RH.shape[1]]
        if self._stochastic:
            noise_N = uniform(values_RH.numel(), self._seed, self._messages, values_RH.device, first)
            steps_RH = steps_RH.add(noise_N.view(values_RH.shape)).floor_()
        else:
            steps_RH = steps_RH.round()
        return steps_RH.clamp_(0, self._most).to(torch.uint8)


def _up(sizes: Tensor) -> Tensor:
    """The least bfloat16 that is not below, of what has no sign."""
    bits = sizes.contiguous().view(torch.int32)
    return ((bits + 0xFFFF) & -0x10000).view(torch.float32).clamp(max=_BF16.max)


def _half_above(values: Tensor) -> Tensor:
    """The least float16 that is not below."""
    nearest = values.half()
    bits = nearest.view(torch.int16)
    # The bits of what is above zero count upwards, below zero downwards; -0 goes to the least number above.
    above = torch.where(nearest > 0, bits + 1, torch.where(bits << 1 == 0, torch.ones_like(bits), bits - 1))
    return torch.where(nearest.float() < values, above, bits).view(torch.float16)


def _exponent(most: float) -> int:
    """Of a power of two, divided by which the largest mark is well within float16."""
    return max(_LEAST_EXPONENT, frexp(most)[1] - _KEPT_EXPONENT) if most else 0
