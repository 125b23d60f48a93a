"""The codec `tile-4`: about 4.4 bits a value without any memory of what was sent before (the idea of TAH-Quant, arXiv
2506.01352; the layout and the choice of dull tiles are this project's).

    [scales, bfloat16] [dull? a bit a tile] [rotated? a bit a tile] [numbers of 4 bits] [numbers of 3 bits]

A tile is 32 neighbours in a row. Where its largest |value| is more than twice the second largest, it is rotated by a
Hadamard matrix, which spreads that value over all 32; sums and differences in a fixed order, so that every machine
makes the same of it. Up to a fifth of a message's tiles, those with the least scales, have 3 bits: what they lose is
little, since they hold little. Levels lie evenly between minus and plus the scale.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from muster.compress.matrix import bytes_of, check_length, checked, header_of, not_a_number, payload_of, size
from muster.compress.matrix import within as in_range
from muster.compress.packing import pack, packed_bytes, unpack
from muster.errors import MalformedFrame
from muster.wire.messages.base import TensorHeader

TILE = 32
CODEC = "tile-4"
_BITS, _DULL_BITS = 4, 3
_DULL_SHARE = 0.2
_DOMINANT = 2.0
"""Times the second largest |value| of a tile."""
_LEAST_SCALE = torch.finfo(torch.bfloat16).smallest_normal
_MOST = torch.finfo(torch.float32).max / TILE
"""What a tile may hold, so that sums within it stay finite."""


class TileCodec:
    """Implements `Encode` and `Decode`."""

    def encode(self, tensor: Tensor) -> tuple[TensorHeader, memoryview]:
        header = header_of(tensor, CODEC)
        rows, width = size(header.shape)
        if not rows * width:
            return header, memoryview(b"")
        if not bool((tensor.detach().abs().amax()).isfinite()):
            raise not_a_number()
        tiles_NT = _tiles(tensor.detach().reshape(rows, width).float().clamp(-_MOST, _MOST))
        top_N2 = tiles_NT.abs().topk(2, dim=1).values
        rotated_N = top_N2[:, 0] > _DOMINANT * top_N2[:, 1]
        scales_N = top_N2[:, 0].clone()
        if bool(rotated_N.any()):
            tiles_NT[rotated_N] = rotate(tiles_NT[rotated_N])
            scales_N[rotated_N] = tiles_NT[rotated_N].abs().amax(dim=1)
        written_N = scales_N.to(torch.bfloat16)
        dull_N = _dull(written_N)
        parts = [written_N.view(torch.uint8), _flags(dull_N), _flags(rotated_N)]
        for chosen_N, bits in ((~dull_N, _BITS), (dull_N, _DULL_BITS)):
            parts.append(pack(_numbers(tiles_NT[chosen_N], written_N[chosen_N].float(), bits), bits).flatten())
        return header, payload_of(torch.cat(parts))

    def decode(self, header: TensorHeader, payload: bytes | bytearray | memoryview, max_bytes: int) -> Tensor:
        dtype, rows, width = checked(header, max_bytes)
        in_row = -(-width // TILE)
        tiles = rows * in_row if width else 0
        flag_bytes = packed_bytes(tiles, 1)
        head = 2 * tiles + 2 * flag_bytes
        if not tiles or len(payload) < head:
            check_length(header, len(payload), head)
            return torch.empty(header.shape, dtype=dtype)
        packed = bytes_of(payload)
        scales_N = packed[: 2 * tiles].clone().view(torch.bfloat16).float()
        dull_N, rotated_N = (
            unpack(packed[start : start + flag_bytes][None], 1, tiles)[0].bool()
            for start in (2 * tiles, 2 * tiles + flag_bytes)
        )
        dull = int(dull_N.sum())
        wide_bytes, dull_bytes = TILE // 8 * _BITS * (tiles - dull), TILE // 8 * _DULL_BITS * dull
        check_length(header, len(payload), head + wide_bytes + dull_bytes)
        if not bool((scales_N.isfinite() & (scales_N >= 0)).all()):
            raise MalformedFrame("A tensor came with a scale that is no number; the sender is broken.")
        tiles_NT = torch.empty(tiles, TILE)
        tiles_NT[~dull_N] = _values(packed[head : head + wide_bytes], scales_N[~dull_N], _BITS)
        tiles_NT[dull_N] = _values(packed[head + wide_bytes :], scales_N[dull_N], _DULL_BITS)
        tiles_NT.clamp_(-_MOST, _MOST)
        if bool(rotated_N.any()):
            tiles_NT[rotated_N] = rotate(tiles_NT[rotated_N])
        return in_range(tiles_NT.view(rows, -1)[:, :width], dtype).reshape(header.shape)


def rotate(tiles_NT: Tensor) -> Tensor:
    """By the Hadamard matrix of Sylvester, divided by the root of its size: twice gives back what went in."""
    for half in (1, 2, 4, 8, 16):
        pairs = tiles_NT.view(len(tiles_NT), -1, 2, half)
        one, other = pairs[:, :, 0], pairs[:, :, 1]
        tiles_NT = torch.stack((one + other, one - other), dim=2).view(len(tiles_NT), TILE)
    return tiles_NT.mul(TILE**-0.5)


def _tiles(values_RH: Tensor) -> Tensor:
    short = -values_RH.shape[1] % TILE
    return (pad(values_RH, (0, short)) if short else values_RH).reshape(-1, TILE)


def _dull(scales_N: Tensor) -> Tensor:
    """Strictly below the scale that a fifth are not above: of equal tiles none is dull."""
    place = int(len(scales_N) * _DULL_SHARE)
    least_kept: Tensor = scales_N.float().kthvalue(place + 1).values
    return torch.lt(scales_N, least_kept)


def _flags(flags_N: Tensor) -> Tensor:
    return pack(flags_N.to(torch.uint8)[None], 1)[0]


def _numbers(tiles_NT: Tensor, scales_N: Tensor, bits: int) -> Tensor:
    most = 2**bits - 1
    half_steps_N = torch.where(scales_N < _LEAST_SCALE, torch.inf, scales_N)[:, None] * (1 / most)
    return tiles_NT.div(half_steps_N).add_(most).mul_(0.5).round_().clamp_(0, most).to(torch.uint8)


def _values(packed_N: Tensor, scales_N: Tensor, bits: int) -> Tensor:
    most = 2**bits - 1
    if not len(scales_N):
        return torch.empty(0, TILE)
    numbers_NT = unpack(packed_N.view(len(scales_N), -1), bits, TILE).float()
    return numbers_NT.mul_(2).sub_(most).mul_((scales_N * (1 / most))[:, None])
