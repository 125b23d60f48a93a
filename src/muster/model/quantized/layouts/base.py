"""What a layout of published weights says: which tensors make up a matrix, what shape it has, and the matrix itself.

`describe` looks at names, dtypes and shapes alone, and says all that can be wrong with them; `read` may rely on it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from muster.cost.published import PublishedFormat
from muster.errors import WeightsInvalid
from muster.model.quantized.matrix import Kind, QuantizedMatrix, repacked


@dataclass(frozen=True, slots=True)
class Described:
    """A tensor as its file's header has it."""

    dtype: str
    shape: tuple[int, ...]


Parts = Mapping[str, Described]
"""By the end of their names."""


class PublishedLayout(Protocol):
    @property
    def method(self) -> str: ...

    @property
    def main(self) -> str:
        """The end of the name of the tensor with the codes; what is before it names the matrix."""

    @property
    def beside(self) -> tuple[str, ...]:
        """Ends of the names of what comes with it, as far as it is there."""

    @property
    def stands_for(self) -> str:
        """What the matrix is called instead: an end of a name."""

    def describe(self, name: str, parts: Parts, published: PublishedFormat) -> tuple[int, ...]:
        """The shape [..., rows, columns]. Raises `WeightsInvalid` on parts that do not fit together."""
        ...

    def read(
        self, parts: Mapping[str, Tensor], shape: tuple[int, ...], published: PublishedFormat
    ) -> QuantizedMatrix: ...


def must(holds: bool, name: str, what: str) -> None:
    """Raise `WeightsInvalid` unless it holds. `what` is the middle of a sentence about the matrix."""
    if not holds:
        raise WeightsInvalid(
            f"The quantised weight {name} {what}, which does not fit to its config.json; download the model again."
        )


def need(name: str, parts: Parts, *ends: str) -> None:
    for end in ends:
        must(end in parts, name, f"has no {end.lstrip('._')}")


def has_shape(name: str, parts: Parts, end: str, dtypes: tuple[str, ...], *shapes: tuple[int, ...]) -> None:
    """Raise `WeightsInvalid` unless a part that is there has one of these dtypes and shapes."""
    if end in parts:
        found = parts[end]
        what, expected = end.lstrip("._"), " or ".join(map(str, shapes))
        must(found.dtype in dtypes, name, f"has {what} as {found.dtype} where {' or '.join(dtypes)} is read")
        must(found.shape in shapes, name, f"has {what} of shape {found.shape} where {expected} would fit")


FLOATS = ("F16", "BF16", "F32")


def groups_of(name: str, columns: int, group: int) -> int:
    """How many there are in a row. Raises `WeightsInvalid` where they do not divide it."""
    size = group or columns
    must(columns % size == 0, name, f"has {columns} columns, which groups of {size} do not divide")
    return columns // size


def of_groups(
    codes: Tensor, step: Tensor, middle: Tensor | None, group: int, bits: int, groups: Tensor | None
) -> QuantizedMatrix:
    """Codes int8 [O, I] of 4 or 8 bits in groups along a row; `groups` [I] names each column's, where they are mixed.

    Raises `WeightsInvalid`.
    """
    order = None
    if groups is not None:
        order = order_of(groups, codes.shape[1], group)
        codes = codes[:, order]
        order = order.to(torch.int32)
    kind: Kind = "nibble" if bits == 4 else "byte"
    return QuantizedMatrix(kind, repacked(codes, kind), step, middle, codes.shape[1], (1, group), order)


def order_of(groups: Tensor, columns: int, group: int) -> Tensor:
    """The columns, those of the first group first. Raises `WeightsInvalid` where a group has too many or too few."""
    counts = torch.bincount(groups.clamp(-1, columns).long() + 1, minlength=2)
    if int(counts[0]) or not bool((counts[1:] == group).all()) or len(counts) - 1 != columns // group:
        raise WeightsInvalid(
            f"The groups of a quantised weight's columns (g_idx) do not have {group} columns each; download the model "
            "again."
        )
    return torch.argsort(groups, stable=True)
