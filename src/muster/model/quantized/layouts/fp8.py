"""Block-scaled FP8 as DeepSeek-V3 publishes it (arXiv 2412.19437, section 3.3).

    weight            e4m3 [O, I]
    weight_scale_inv  float32 [O / 128, I / 128], what a block is multiplied by (the name says the opposite)

Also with one number for the whole matrix, where no block size is said.
"""

from collections.abc import Mapping

from torch import Tensor

from muster.cost.published import PublishedFormat
from muster.model.quantized.layouts.base import FLOATS, Parts, has_shape, must, need
from muster.model.quantized.matrix import QuantizedMatrix


class Fp8:
    method = "fp8"
    main, stands_for = ".weight", ".weight"
    beside = (".weight_scale_inv",)

    def describe(self, name: str, parts: Parts, published: PublishedFormat) -> tuple[int, ...]:
        need(name, parts, ".weight_scale_inv")
        must(len(parts[".weight"].shape) == 2, name, "has codes that are no matrix")
        rows, columns = parts[".weight"].shape
        scales = [published.form.blocks(rows, columns), *([(1,), ()] if not published.form.rows else [])]
        has_shape(name, parts, ".weight", ("F8_E4M3",), (rows, columns))
        has_shape(name, parts, ".weight_scale_inv", FLOATS, *scales)
        return rows, columns

    def read(self, parts: Mapping[str, Tensor], shape: tuple[int, ...], published: PublishedFormat) -> QuantizedMatrix:
        form, (rows, columns) = published.form, shape
        scale = parts[".weight_scale_inv"].float().reshape(form.blocks(rows, columns))
        return QuantizedMatrix("float8", parts[".weight"], scale, None, columns, form.block(rows, columns))
