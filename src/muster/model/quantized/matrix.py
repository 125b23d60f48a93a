"""One matrix in few bits: codes, and steps and middles of blocks. Knows no file, no layer and no kernel.

    value[o, i] = code[o, i] x step[o // rows, i // columns] + middle[o // rows, i // columns]

Kinds of codes: `nibble` (-8 to 7, two to a byte), `byte` (int8), `float8` (e4m3 or e5m2), `float4` (e2m1, two to a
byte; OCP Microscaling Formats v1.0, table 5). Leading dimensions (experts) may stand before rows and columns.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from muster.cost.few_bits import BlockFormat
from muster.errors import UnsupportedModel
from muster.model.quantized.codec import from_nibbles, quantize, quantize_even, rounded_up, to_nibbles, unflatten
from muster.model.tensor_file import Ranges

Kind = Literal["nibble", "byte", "float8", "float4"]
FLOAT4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
"""By code; the highest bit is the sign."""
MOST_FLOAT8 = 448.0
"""Of e4m3."""
AT_ONCE = 2**22
"""Numbers that are quantised at a time, each of which takes some twenty bytes meanwhile."""
PER_BYTE = {"nibble": 2, "float4": 2, "byte": 1, "float8": 1}


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedMatrix:
    kind: Kind
    codes: Tensor
    """[..., O, I or half of it]."""
    step: Tensor
    """[..., O / rows, I / columns], rounded up."""
    middle: Tensor | None
    columns: int
    """I."""
    block: tuple[int, int]
    """Rows and columns of one block."""
    order: Tensor | None = None
    """int32 [I]: column j of the codes belongs to input order[j]. None: they stand as the inputs do."""

    @property
    def rows(self) -> int:
        return int(self.codes.shape[-2])

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.codes.shape[:-1], self.columns)

    @property
    def nbytes(self) -> int:
        parts = (self.codes, self.step, self.middle, self.order)
        return sum(part.nbytes for part in parts if part is not None)

    def to(self, device: torch.device) -> "QuantizedMatrix":
        return self.each(lambda part: part.to(device))

    def in_dtype(self, dtype: torch.dtype) -> "QuantizedMatrix":
        """With steps and middles as wide as what is computed with. Those of eight-bit floats stay as they are."""
        if self.kind in ("float8", "float4"):
            return self
        middle = self.middle
        return replace(self, step=self.step.to(dtype), middle=None if middle is None else middle.to(dtype))

    def one(self, index: int) -> "QuantizedMatrix":
        """Of a stack, the matrix of one expert."""
        return replace(
            self,
            codes=self.codes[index],
            step=self.step[index],
            middle=None if self.middle is None else self.middle[index],
        )

    def some_rows(self, start: int, stop: int) -> "QuantizedMatrix":
        """Views of rows [start, stop), which begin and end with blocks."""
        by = self.block[0]
        blocks = slice(start // by, -(-stop // by))
        return replace(
            self,
            codes=self.codes[..., start:stop, :],
            step=self.step[..., blocks, :],
            middle=None if self.middle is None else self.middle[..., blocks, :],
        )

    def values(self, dtype: torch.dtype) -> Tensor:
        """[..., O, I] as the inputs stand, each computed in float32 and rounded to `dtype`."""
        spread = self.spread()
        values = spread * self._expanded(self.step)
        if self.middle is not None:
            values += self._expanded(self.middle)
        values = values.to(dtype)
        if self.order is None:
            return values
        return torch.empty_like(values).index_copy_(-1, self.order.long(), values)

    def spread(self) -> Tensor:
        """The codes as float32 [..., O, I], in their own order."""
        match self.kind:
            case "nibble":
                return from_nibbles(self.codes, self.columns).float()
            case "float4":
                table = torch.tensor(FLOAT4, device=self.codes.device)
                return table[(from_nibbles(self.codes, self.columns) + 8).int()]
            case _:
                return self.codes.float()

    def _expanded(self, per_block: Tensor) -> Tensor:
        rows, columns = self.block
        wide = per_block.float()
        if columns > 1 and wide.shape[-1] > 1:
            wide = wide.repeat_interleave(columns, -1)[..., : self.columns]
        if rows > 1 and wide.shape[-2] > 1:
            wide = wide.repeat_interleave(rows, -2)[..., : self.rows, :]
        return wide

    def each(self, change: Callable[[Tensor], Tensor]) -> "QuantizedMatrix":
        middle, order = self.middle, self.order
        return replace(
            self,
            codes=change(self.codes),
            step=change(self.step),
            middle=None if middle is None else change(middle),
            order=None if order is None else change(order),
        )

    def take(self, dim: int, ranges: Ranges) -> "QuantizedMatrix":
        """These ranges of rows (-2) or columns (-1), as a copy. Raises `UnsupportedModel` in the middle of a block."""
        by = self.block[dim + 2]
        edges = [edge for one in ranges for edge in one]
        size = self.shape[dim]
        if (self.order is not None and dim == -1) or any(edge % by and edge != size for edge in edges):
            raise UnsupportedModel(
                f"A matrix quantised in blocks of {self.block[0]} x {self.block[1]} cannot be cut at "
                f"{edges[-1]} of {size}; keep its stages whole."
            )
        blocks = tuple((start // by, -(-stop // by)) for start, stop in ranges)
        if dim == -2:
            parts = replace(
                self,
                codes=_taken(self.codes, -2, ranges),
                step=_taken(self.step, -2, blocks),
                middle=None if self.middle is None else _taken(self.middle, -2, blocks),
            )
        else:
            codes = _taken(unpacked_codes(self), -1, ranges)
            parts = replace(
                self,
                codes=repacked(codes, self.kind),
                step=_taken(self.step, -1, blocks),
                middle=None if self.middle is None else _taken(self.middle, -1, blocks),
                columns=int(codes.shape[-1]),
            )
        return parts


def unpacked_codes(matrix: QuantizedMatrix) -> Tensor:
    """One code to an element: [..., O, I]."""
    return from_nibbles(matrix.codes, matrix.columns) if PER_BYTE[matrix.kind] == 2 else matrix.codes


def repacked(codes: Tensor, kind: Kind) -> Tensor:
    """What `unpacked_codes` gives, as it is kept."""
    return to_nibbles(codes) if PER_BYTE[kind] == 2 else codes.contiguous()


def _taken(tensor: Tensor, dim: int, ranges: Ranges) -> Tensor:
    return torch.cat([tensor.narrow(dim, start, stop - start) for start, stop in ranges], dim).clone()


def behind_each_other(parts: Sequence[QuantizedMatrix]) -> QuantizedMatrix:
    """Rows of several matrices with the same columns and blocks, one behind the other."""
    first = parts[0]
    middles = [part.middle for part in parts if part.middle is not None]
    return replace(
        first,
        codes=torch.cat([part.codes for part in parts], -2),
        step=torch.cat([part.step for part in parts], -2),
        middle=torch.cat(middles, -2) if middles else None,
    )


def stacked(parts: Sequence[QuantizedMatrix]) -> QuantizedMatrix:
    """Matrices of experts, each of the same shape: [E, O, I]."""
    first = parts[0]
    middles = [part.middle for part in parts if part.middle is not None]
    return replace(
        first,
        codes=torch.stack([part.codes for part in parts]),
        step=torch.stack([part.step for part in parts]),
        middle=torch.stack(middles) if middles else None,
    )


def quantized(values: Tensor, form: BlockFormat, dtype: torch.dtype) -> QuantizedMatrix:
    """[..., O, I] in one of `cost.few_bits.WEIGHT_FORMATS`, to be computed with in `dtype`. Some rows at a time."""
    columns = int(values.shape[-1])
    flat_RI = values.reshape(-1, columns)
    at_once = max(1, AT_ONCE // columns)
    parts = [_quantized(some, form, dtype) for some in torch.split(flat_RI, at_once)]
    whole = behind_each_other(parts) if len(parts) > 1 else parts[0]
    return whole if values.dim() == 2 else _as_stack(whole, values.shape[:-1])


def _quantized(values: Tensor, form: BlockFormat, dtype: torch.dtype) -> QuantizedMatrix:
    columns = int(values.shape[-1])
    if form.name == "fp8":
        step = rounded_up(values.float().abs().amax(-1, keepdim=True) / MOST_FLOAT8, torch.float32)
        scaled = torch.where(step > 0, values.float() / step, 0.0).clamp_(-MOST_FLOAT8, MOST_FLOAT8)
        return QuantizedMatrix("float8", scaled.to(torch.float8_e4m3fn), step, None, columns, (1, columns))
    if form.bits == 8:
        codes, step = quantize_even(values, 8, dtype)
        return QuantizedMatrix("byte", codes, step, None, columns, (1, columns))
    codes, step, middle = quantize(values, form.bits, form.columns, dtype)
    return QuantizedMatrix("nibble", to_nibbles(codes), step, middle, columns, (1, form.columns))


def _as_stack(matrix: QuantizedMatrix, leading: torch.Size) -> QuantizedMatrix:
    """Rows of a stack, taken apart again; blocks are of single rows."""
    return matrix.each(lambda part: unflatten(part, 0, leading))
