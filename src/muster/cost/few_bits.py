"""Bytes of numbers kept in few bits: weights and KV pages. One function for planner, memory books and whoever loads.

A matrix is cut into blocks. Each number is a code of a few bits; each block has a step, and some formats a middle:

    value = code x step + middle

The defaults keep groups of 64 along a row, as FlexGen does (arXiv 2303.06865, section 5), but store the step and not
its inverse: 4 + 2 x 16 / 64 = 4.5 bits a number in half precision.
"""

from dataclasses import dataclass

from muster.cost.memory import dtype_bytes
from muster.errors import InvalidRequest
from muster.spec.few_bits import FewBits

GROUP = 64
FEWEST_OUTPUTS = 16
"""Of a matrix that is kept in few bits."""


@dataclass(frozen=True, slots=True)
class BlockFormat:
    """How the numbers of a matrix [rows, columns] are kept."""

    name: str
    bits: int
    """Of a code."""
    columns: int = GROUP
    """Of a block; 0 is a whole row."""
    rows: int = 1
    """Of a block; 0 is all."""
    middle: bool = True
    """Whether a block has a middle besides its step."""
    step_bytes: int = 0
    """Of a step, and of a middle; 0: as wide as the numbers that are computed with."""
    order_bytes: int = 0
    """For each column, where columns stand in an order of their own (GPTQ's `desc_act`)."""

    def block(self, rows: int, columns: int) -> tuple[int, int]:
        """Rows and columns of a block of such a matrix."""
        return self.rows or max(1, rows), self.columns or max(1, columns)

    def blocks(self, rows: int, columns: int) -> tuple[int, int]:
        """How many there are, down and across."""
        down, across = self.block(rows, columns)
        return -(-rows // down), -(-columns // across)

    def bytes_of(self, rows: int, columns: int, itemsize: int) -> int:
        """Of one matrix; `itemsize` is that of the dtype that is computed in."""
        code_bytes = rows * (-(-columns * self.bits // 8))
        down, across = self.blocks(rows, columns)
        steps_bytes = down * across * (1 + self.middle) * (self.step_bytes or itemsize)
        return code_bytes + steps_bytes + columns * self.order_bytes


INT4 = BlockFormat("int4", 4)
INT8 = BlockFormat("int8", 8, columns=0, middle=False)
FP8 = BlockFormat("fp8", 8, columns=0, middle=False, step_bytes=4)
WEIGHT_FORMATS = {one.name: one for one in (INT4, INT8, FP8)}
"""What `--weights` takes. Eight bits need no groups: one step for each output is what kernels take, and loses nothing
that can be measured in perplexity."""
CACHE_FORMATS = {one.name: one for one in (BlockFormat("int8", 8), BlockFormat("int4", 4))}
"""What `--cache` takes: each key and each value of each head in groups of its own."""
CACHE_STEP_BYTES = 2
"""A page's steps and middles are in bfloat16 whatever is computed in."""


def few_bits_of(weights: str | None, cache: str | None) -> FewBits:
    """Of the options `--weights` and `--cache`; none is as it is stored. Raises `InvalidRequest` on an unknown name."""
    return FewBits(check_weights(weights), check_cache(cache))


def check_weights(name: str | None) -> str:
    """Raises `InvalidRequest` on a format that is not known; none is the model's own."""
    return _check(name, WEIGHT_FORMATS, "weights")


def check_cache(name: str | None) -> str:
    """Raises `InvalidRequest` on a format that is not known; none is as computed."""
    return _check(name, CACHE_FORMATS, "cache")


def _check(name: str | None, known: dict[str, BlockFormat], option: str) -> str:
    if name and name not in known:
        raise InvalidRequest(f"--{option} {name[:20]!r} is not known; choose one of {', '.join(known)}.", option)
    return name or ""


def bytes_per_parameter(weights: str, dtype: str) -> float:
    """Of a large matrix in one of `WEIGHT_FORMATS`, computed in `dtype`; with an empty name, of plain numbers."""
    itemsize = dtype_bytes(dtype)
    if not weights:
        return itemsize
    size = 4096
    return WEIGHT_FORMATS[check_weights(weights)].bytes_of(size, size, itemsize) / size**2


def vector_bytes(size: int, itemsize: int, cache: str) -> int:
    """Of one key or value of one head in the KV cache; an empty `cache` keeps it as computed."""
    if not cache:
        return size * itemsize
    kept = CACHE_FORMATS[check_cache(cache)]
    return -(-size * kept.bits // 8) + 2 * CACHE_STEP_BYTES * -(-size // GROUP)
