"""GPTQ (Frantar et al., arXiv 2210.17323) as AutoGPTQ and GPTQModel write it.

qweight  int32 [I x b / 32, O]       b-bit codes along the inputs
qzeros   int32 [I / group, O x b/32] zero points along the outputs; one less than meant unless the format is v2
scales         [I / group, O]
g_idx    int32 [I]                   the group of each input; with `desc_act` in an order of its own

value = (code - zero) x scale
"""

from collections.abc import Mapping

from torch import Tensor

from muster.cost.published import PublishedFormat
from muster.model.quantized.layouts.base import FLOATS, Parts, groups_of, has_shape, must, need, of_groups
from muster.model.quantized.layouts.bits import signed, unpack_first, unpack_last
from muster.model.quantized.matrix import QuantizedMatrix


class Gptq:
    method = "gptq"
    main, stands_for = ".qweight", ".weight"
    beside = (".qzeros", ".scales", ".g_idx")

    def describe(self, name: str, parts: Parts, published: PublishedFormat) -> tuple[int, ...]:
        bits = published.form.bits
        need(name, parts, ".qzeros", ".scales")
        must(len(parts[".qweight"].shape) == 2, name, "has codes that are no matrix")
        words, rows = parts[".qweight"].shape
        columns = words * 32 // bits
        must(rows * bits % 32 == 0, name, f"has {rows} outputs, which do not fill whole numbers")
        groups = groups_of(name, columns, published.form.columns)
        has_shape(name, parts, ".qweight", ("I32",), (words, rows))
        has_shape(name, parts, ".qzeros", ("I32",), (groups, rows * bits // 32))
        has_shape(name, parts, ".scales", FLOATS, (groups, rows))
        has_shape(name, parts, ".g_idx", ("I32",), (columns,))
        must(not published.form.order_bytes or ".g_idx" in parts, name, "has no g_idx")
        return rows, columns

    def read(self, parts: Mapping[str, Tensor], shape: tuple[int, ...], published: PublishedFormat) -> QuantizedMatrix:
        bits, columns = published.form.bits, shape[1]
        group = published.form.columns or columns
        codes = signed(unpack_first(parts[".qweight"], bits).t(), bits)
        zeros = unpack_last(parts[".qzeros"], bits).t().float()
        if published.variant != "v2":
            zeros = (zeros + 1) % 2**bits if bits < 8 else zeros + 1
        scale = parts[".scales"].t().float().contiguous()
        middle = (2 ** (bits - 1) - zeros) * scale
        groups = parts[".g_idx"] if published.form.order_bytes else None
        return of_groups(codes, scale, middle, group, bits, groups)
