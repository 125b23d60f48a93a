"""PyTorch's own matrix kernels for weights in few bits, on a CPU in bfloat16. Knows no layer and no file.

    int4   groups of 32, 64, 128 or 256 in tiles of 64 outputs: for each input 32 bytes, output j of the tile in the
           lower half of byte j, output j + 32 in the upper
    int8   one step for each output

They are not public and the tiles depend on the processor, so each is tried first against plain arithmetic; where one is
missing or does not agree, `QuantizedMatrix.values` does the work. Few rows are what they are good for: they take the
weights apart again for every four rows. With more rows, parts of the weight are made plain and multiplied by one.
Measured on one core with AVX-512 and AMX, 4,096 x 4,096, against packed bfloat16: one row 2.5 times as fast (int4), 1.6
times (int8); eight rows about as fast; with 32 and more rows bfloat16 is two to four times as fast.
"""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from muster.model.quantized.codec import to_nibbles, unflatten
from muster.model.quantized.matrix import QuantizedMatrix, unpacked_codes

TILE = 64
GROUPS = (32, 64, 128, 256)
MOST_ROWS_INT4, MOST_ROWS_INT8 = 64, 16
"""Of inputs, up to which the kernels are the faster way."""
PLAIN_ELEMENTS = 2**18
"""Of a part of the weight that is made plain at once: what a core's cache holds together with its codes."""


def suits_int4(matrix: QuantizedMatrix, dtype: torch.dtype) -> bool:
    group = matrix.block[1]
    plain = matrix.kind == "nibble" and matrix.block[0] == 1 and matrix.order is None
    even = matrix.rows % TILE == 0 and group in GROUPS and matrix.columns % group == 0
    return plain and even and _here(matrix, dtype) and int4_agrees()


def suits_int8(matrix: QuantizedMatrix, dtype: torch.dtype) -> bool:
    rowwise = matrix.block == (1, matrix.columns) and matrix.middle is None and matrix.order is None
    return matrix.kind == "byte" and rowwise and _here(matrix, dtype) and int8_agrees()


def _here(matrix: QuantizedMatrix, dtype: torch.dtype) -> bool:
    return dtype == torch.bfloat16 and matrix.codes.device.type == "cpu"


def to_tiles(matrix: QuantizedMatrix) -> tuple[Tensor, Tensor]:
    """Of [..., O, I]: codes in tiles [..., O, I/2], and steps with middles in bfloat16 [..., I/group, O, 2]."""
    codes = (unpacked_codes(matrix) + 8).to(torch.int32)
    flat = codes.flatten(0, -2)  # a stack's matrices are whole tiles each
    tiles = torch.ops.aten._convert_weight_to_int4pack_for_cpu(flat, 1).view(*codes.shape[:-1], -1)
    middle = torch.zeros_like(matrix.step) if matrix.middle is None else matrix.middle
    steps = torch.stack([matrix.step, middle], -1).transpose(-3, -2).to(torch.bfloat16).contiguous()
    return tiles, steps


def times_int4(x: Tensor, tiles: Tensor, steps: Tensor, group: int) -> Tensor:
    """[M, I] by the transposed matrix: [M, O]."""
    if x.shape[0] <= MOST_ROWS_INT4:
        return torch.ops.aten._weight_int4pack_mm_for_cpu(x.contiguous(), tiles, group, steps)  # type: ignore[no-any-return]
    result = x.new_empty(x.shape[0], tiles.shape[0])
    at_once = max(1, PLAIN_ELEMENTS // (TILE * x.shape[1])) * TILE
    for start in range(0, tiles.shape[0], at_once):
        stop = min(start + at_once, tiles.shape[0])
        plain_TIO = plain_tiles(tiles[start:stop], steps[:, start:stop], group)
        unflatten(result[:, start:stop], 1, (-1, TILE)).copy_(torch.matmul(x, plain_TIO).transpose(0, 1))
    return result


def plain_tiles(tiles: Tensor, steps: Tensor, group: int) -> Tensor:
    """Values in bfloat16, transposed tile by tile: [O/64, I, 64]."""
    data = tiles.view(-1, tiles.shape[1] * 2, TILE // 2)
    bytes_TIO = torch.cat([data & 15, data >> 4], -1).view(torch.int8).sub_(8)
    codes = unflatten(bytes_TIO.to(torch.bfloat16), 1, (-1, group))
    step_TG1O, middle_TG1O = (
        # Contiguous: with a stride, the products below are done one by one.
        unflatten(steps[..., part], 1, (-1, TILE)).transpose(0, 1)[:, :, None].contiguous()
        for part in range(2)
    )
    return codes.mul_(step_TG1O).add_(middle_TG1O).flatten(1, 2)


def times_int8(x: Tensor, codes: Tensor, step: Tensor) -> Tensor:
    """[M, I] by the transposed matrix: [M, O]. `step` is [O]."""
    if x.shape[0] <= MOST_ROWS_INT8:
        return torch.ops.aten._weight_int8pack_mm(x.contiguous(), codes, step)  # type: ignore[no-any-return]
    result = x.new_empty(x.shape[0], codes.shape[0])
    at_once = max(1, PLAIN_ELEMENTS // x.shape[1])
    for start in range(0, codes.shape[0], at_once):
        # A code is exact in bfloat16; steps come after the sum.
        part = codes[start : start + at_once].to(x.dtype)
        result[:, start : start + at_once] = torch.mm(x, part.t())
    return result.mul_(step)


@cache
def int4_agrees() -> bool:
    """Whether the kernel is there, its tiles are those of the legend, and both ways give what arithmetic gives."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(-8, 8, (2 * TILE, 128), generator=generator).to(torch.int8)
    step, middle = (torch.rand(2 * TILE, 2, generator=generator).to(torch.bfloat16) for _ in range(2))
    matrix = QuantizedMatrix("nibble", to_nibbles(codes), step, middle, 128, (1, 64))
    return _agrees(matrix, lambda x: times_int4(x, *to_tiles(matrix), 64))


@cache
def int8_agrees() -> bool:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(-127, 128, (96, 128), generator=generator).to(torch.int8)
    step = torch.rand(96, 1, generator=generator).to(torch.bfloat16)
    matrix = QuantizedMatrix("byte", codes, step, None, 128, (1, 128))
    return _agrees(matrix, lambda x: times_int8(x, codes, step[:, 0]))


def _agrees(matrix: QuantizedMatrix, times: Callable[[Tensor], Tensor]) -> bool:
    generator = torch.Generator().manual_seed(1)
    for rows in (1, MOST_ROWS_INT4 + 1):
        x = torch.randn(rows, matrix.columns, generator=generator).to(torch.bfloat16)
        expected = x.float() @ matrix.values(torch.float32).t()
        try:
            with torch.inference_mode():
                found = times(x).float()
        except (AttributeError, NotImplementedError, RuntimeError):
            return False
        if not torch.allclose(found, expected, rtol=2e-2, atol=2e-2 * float(expected.abs().max())):
            return False
    return True
