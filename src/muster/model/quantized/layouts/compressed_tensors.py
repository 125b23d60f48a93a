"""`compressed-tensors`, the format of llm-compressor and vLLM.

pack-quantized    weight_packed  int32 [O, I x b / 32]   codes along the inputs, shifted to begin at 0
                  weight_zero_point  int32 [O x b / 32, groups]   along the outputs, shifted likewise
                  weight_shape  [2],  weight_g_idx  [I]
int-quantized     weight  int8 [O, I],   weight_zero_point  int8 [O, groups]
float-quantized   weight  e4m3 [O, I]
all               weight_scale  [O, groups], or [O, 1], [1] or blocks

value = (code - zero) x scale
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from muster.cost.published import PublishedFormat
from muster.model.quantized.layouts.base import FLOATS, Parts, groups_of, has_shape, must, need, of_groups
from muster.model.quantized.layouts.bits import signed, unpack_first, unpack_last
from muster.model.quantized.matrix import QuantizedMatrix


class Packed:
    """`pack-quantized`."""

    method = "compressed-tensors"
    main, stands_for = ".weight_packed", ".weight"
    beside = (".weight_scale", ".weight_zero_point", ".weight_shape", ".weight_g_idx")

    def describe(self, name: str, parts: Parts, published: PublishedFormat) -> tuple[int, ...]:
        bits = published.form.bits
        need(name, parts, ".weight_scale")
        must(len(parts[".weight_packed"].shape) == 2, name, "has codes that are no matrix")
        rows, words = parts[".weight_packed"].shape
        columns = words * 32 // bits
        groups = groups_of(name, columns, published.form.columns)
        has_shape(name, parts, ".weight_packed", ("I32",), (rows, words))
        has_shape(name, parts, ".weight_scale", FLOATS, (rows, groups))
        has_shape(name, parts, ".weight_zero_point", ("I32",), (-(-rows * bits // 32), groups))
        has_shape(name, parts, ".weight_shape", ("I64", "I32"), (2,))
        has_shape(name, parts, ".weight_g_idx", ("I32", "I64"), (columns,))
        must(published.even == (".weight_zero_point" not in parts), name, "has zero points, or lacks them,")
        must(not published.form.order_bytes or ".weight_g_idx" in parts, name, "has no g_idx")
        return rows, columns

    def read(self, parts: Mapping[str, Tensor], shape: tuple[int, ...], published: PublishedFormat) -> QuantizedMatrix:
        bits, (rows, columns) = published.form.bits, shape
        group = published.form.columns or columns
        if ".weight_shape" in parts:
            must(tuple(parts[".weight_shape"].tolist()) == shape, "of a linear layer", "says another shape of itself")
        codes, scale = signed(unpack_last(parts[".weight_packed"], bits), bits), parts[".weight_scale"].float()
        middle = torch.zeros_like(scale) if published.form.middle else None
        if not published.even:
            zeros = signed(unpack_first(parts[".weight_zero_point"], bits, rows), bits)
            middle = -zeros.float() * scale
        groups = parts[".weight_g_idx"] if published.form.order_bytes else None
        return of_groups(codes, scale, middle, group, bits, groups)


class Plain:
    """`int-quantized`, `float-quantized`, and both as `naive-quantized`."""

    method = "compressed-tensors"
    main, stands_for = ".weight", ".weight"
    beside = (".weight_scale", ".weight_zero_point")

    def describe(self, name: str, parts: Parts, published: PublishedFormat) -> tuple[int, ...]:
        form = published.form
        need(name, parts, ".weight_scale")
        must(len(parts[".weight"].shape) == 2, name, "has codes that are no matrix")
        rows, columns = parts[".weight"].shape
        blocks = form.blocks(rows, columns)
        if form.rows == 1:
            groups_of(name, columns, form.columns)
        scales = [blocks, *([(1,), ()] if blocks == (1, 1) else [])]
        has_shape(name, parts, ".weight", ("F8_E4M3",) if form.name == "fp8" else ("I8",), (rows, columns))
        has_shape(name, parts, ".weight_scale", FLOATS, *scales)
        has_shape(name, parts, ".weight_zero_point", ("I8",), *scales)
        if form.name != "fp8":
            must(published.even == (".weight_zero_point" not in parts), name, "has zero points, or lacks them,")
        return rows, columns

    def read(self, parts: Mapping[str, Tensor], shape: tuple[int, ...], published: PublishedFormat) -> QuantizedMatrix:
        form, (rows, columns) = published.form, shape
        block, blocks = form.block(rows, columns), form.blocks(rows, columns)
        scale = parts[".weight_scale"].float().reshape(blocks)
        if form.name == "fp8":
            return QuantizedMatrix("float8", parts[".weight"], scale, None, columns, block)
        middle = None if published.even else -parts[".weight_zero_point"].float().reshape(blocks) * scale
        return QuantizedMatrix("byte", parts[".weight"], scale, middle, columns, block)
