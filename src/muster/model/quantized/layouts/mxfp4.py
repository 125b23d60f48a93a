"""MXFP4 experts as GPT-OSS publishes them (OCP Microscaling Formats v1.0, section 5.2).

    gate_up_proj_blocks  uint8 [E, O, I / 32, 16]   e2m1 numbers, the earlier of two in the lower half of a byte
    gate_up_proj_scales  uint8 [E, O, I / 32]       powers of two, 127 more than the exponent

The module has them as [E, I, O].
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from muster.cost.published import PublishedFormat
from muster.model.quantized.layouts.base import Parts, has_shape, must, need
from muster.model.quantized.matrix import QuantizedMatrix, repacked

GROUP = 32


class Mxfp4:
    method = "mxfp4"
    main, stands_for = "_blocks", ""
    beside = ("_scales",)

    def describe(self, name: str, parts: Parts, published: PublishedFormat) -> tuple[int, ...]:
        need(name, parts, "_scales")
        shape = parts["_blocks"].shape
        must(len(shape) == 4 and shape[3] == GROUP // 2, name, f"has blocks of shape {shape}")
        has_shape(name, parts, "_blocks", ("U8",), shape)
        has_shape(name, parts, "_scales", ("U8",), shape[:3])
        return shape[0], shape[1], shape[2] * GROUP

    def read(self, parts: Mapping[str, Tensor], shape: tuple[int, ...], published: PublishedFormat) -> QuantizedMatrix:
        data = parts["_blocks"].flatten(-2)
        codes = torch.stack([data & 15, data >> 4], -1).flatten(-2).to(torch.int8) - 8
        step = parts["_scales"].contiguous().view(torch.float8_e8m0fnu)
        return QuantizedMatrix("float4", repacked(codes, "float4"), step, None, shape[-1], (1, GROUP))
