"""AWQ (Lin et al., arXiv 2306.00978) as AutoAWQ writes it for its `gemm` kernels.

qweight  int32 [I, O / 8]         4-bit codes along the outputs, in the order 0 2 4 6 1 3 5 7
qzeros   int32 [I / group, O / 8] zero points, likewise
scales         [I / group, O]

value = (code - zero) x scale
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from muster.cost.published import PublishedFormat
from muster.model.quantized.layouts.base import FLOATS, Parts, groups_of, has_shape, must, need
from muster.model.quantized.layouts.bits import signed, unpack_last
from muster.model.quantized.matrix import QuantizedMatrix, repacked

ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight outputs the lowest four bits hold, and so on."""


class Awq:
    method = "awq"
    main, stands_for = ".qweight", ".weight"
    beside = (".qzeros", ".scales")

    def describe(self, name: str, parts: Parts, published: PublishedFormat) -> tuple[int, ...]:
        need(name, parts, *self.beside)
        must(len(parts[".qweight"].shape) == 2, name, "has codes that are no matrix")
        columns, words = parts[".qweight"].shape
        groups = groups_of(name, columns, published.form.columns)
        has_shape(name, parts, ".qweight", ("I32",), (columns, words))
        has_shape(name, parts, ".qzeros", ("I32",), (groups, words))
        has_shape(name, parts, ".scales", FLOATS, (groups, words * 8))
        return words * 8, columns

    def read(self, parts: Mapping[str, Tensor], shape: tuple[int, ...], published: PublishedFormat) -> QuantizedMatrix:
        group = published.form.columns or shape[1]
        codes = signed(_in_order(parts[".qweight"]).t(), 4)
        zeros = _in_order(parts[".qzeros"]).t().float()
        scale = parts[".scales"].t().float().contiguous()
        return QuantizedMatrix("nibble", repacked(codes, "nibble"), scale, (8 - zeros) * scale, shape[1], (1, group))


def _in_order(packed: Tensor) -> Tensor:
    """uint8 [..., O], as the outputs stand."""
    places = torch.argsort(torch.tensor(ORDER))
    codes = unpack_last(packed, 4)
    return codes.reshape(*codes.shape[:-1], -1, 8)[..., places].flatten(-2)
