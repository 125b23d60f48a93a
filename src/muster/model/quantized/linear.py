"""The linear layer and the stacked experts over weights in few bits. Know no file and no format of one.

The module stays the one that `transformers` made, with its hooks: its class becomes one that holds, instead of
`weight`, plain buffers `codes`, `step`, `middle` and `order` (those that there are), or `codes` in tiles and `steps`
where a kernel of PyTorch takes them. A `state_dict` has them by these names; they may be moved or swapped like any
buffer.
"""

from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from muster.model.quantized.kernel import suits_int4, suits_int8, times_int4, times_int8, to_tiles
from muster.model.quantized.matrix import Kind, QuantizedMatrix

AT_ONCE = 2**20
"""Numbers of a weight that are plain at the same time, where no kernel takes it."""


class QuantizedWeight(nn.Module):
    """A matrix [O, I], or a stack of them [E, O, I], as buffers."""

    def __init__(self, matrix: QuantizedMatrix, dtype: torch.dtype) -> None:
        super().__init__()
        hold(self, matrix, dtype)


def hold(module: nn.Module, matrix: QuantizedMatrix, dtype: torch.dtype) -> None:
    """Give `module` the buffers of `matrix`, to be multiplied by inputs of `dtype`."""
    kept: Any = module
    kept.kind, kept.columns, kept.block, kept.dtype = matrix.kind, matrix.columns, matrix.block, dtype
    kept.kernel = "int4" if suits_int4(matrix, dtype) else "int8" if suits_int8(matrix, dtype) else ""
    if kept.kernel == "int4":
        codes, steps = to_tiles(matrix)
        parts: dict[str, Tensor | None] = {"codes": codes, "steps": steps}
    else:
        step = matrix.step.to(dtype) if kept.kernel == "int8" else matrix.step
        parts = {"codes": matrix.codes, "step": step, "middle": matrix.middle, "order": matrix.order}
    for name, part in parts.items():
        module.register_buffer(name, part)


def held(module: nn.Module) -> QuantizedMatrix:
    """The buffers as a matrix. Not of one in a kernel's tiles."""
    kept: Any = module
    return QuantizedMatrix(
        cast(Kind, kept.kind), kept.codes, kept.step, kept.middle, kept.columns, kept.block, kept.order
    )


def times(module: nn.Module, x: Tensor, expert: int | None = None) -> Tensor:
    """[..., I] by the transposed matrix that `module` holds, or that of one expert: [..., O]."""
    kept: Any = module
    x_MI = x.reshape(-1, x.shape[-1])
    codes = kept.codes if expert is None else kept.codes[expert]
    if x_MI.shape[0] == 0:
        return x.new_empty(*x.shape[:-1], codes.shape[-2])
    if kept.kernel == "int4":
        steps = kept.steps if expert is None else kept.steps[expert]
        result = times_int4(x_MI, codes, steps, kept.block[1])
    elif kept.kernel == "int8":
        step = kept.step if expert is None else kept.step[expert]
        result = times_int8(x_MI, codes, step[:, 0])
    else:
        matrix = held(module)
        result = plainly(x_MI, matrix if expert is None else matrix.one(expert))
    return result.view(*x.shape[:-1], -1)


def plainly(x_MI: Tensor, matrix: QuantizedMatrix) -> Tensor:
    """The reference: rows of the weight are made plain, some at a time, and multiplied."""
    if matrix.order is not None:
        x_MI = x_MI.index_select(1, matrix.order)
        matrix = QuantizedMatrix(matrix.kind, matrix.codes, matrix.step, matrix.middle, matrix.columns, matrix.block)
    by = matrix.block[0]
    at_once = max(1, AT_ONCE // (by * matrix.columns)) * by
    if at_once >= matrix.rows:
        return linear(x_MI, matrix.values(x_MI.dtype))
    result = x_MI.new_empty(x_MI.shape[0], matrix.rows)
    for start in range(0, matrix.rows, at_once):
        stop = min(start + at_once, matrix.rows)
        result[:, start:stop] = linear(x_MI, matrix.some_rows(start, stop).values(x_MI.dtype))
    return result


class QuantizedLinear(nn.Linear):
    """See `quantize_linear`, which makes one of a linear layer."""

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """Shape and dtype only."""
        kept: Any = self
        return torch.empty(self.out_features, self.in_features, dtype=kept.dtype, device="meta")

    def forward(self, x: Tensor) -> Tensor:
        result = times(self, x)
        return result if self.bias is None else result.add_(self.bias)


def quantize_linear(module: nn.Linear, matrix: QuantizedMatrix, dtype: torch.dtype) -> None:
    """Let a linear layer multiply by `matrix`."""
    del module.weight
    module.__class__ = QuantizedLinear
    hold(module, matrix, dtype)


def quantize_experts(module: nn.Module, name: str, matrix: QuantizedMatrix, dtype: torch.dtype) -> None:
    """Let stacked experts have `matrix`, each as [O, I], in place of their parameter `name`.

    They run one expert after the other as soon as all of their matrices are so.
    """
    delattr(module, name)
    setattr(module, name, QuantizedWeight(matrix, dtype))
    module.forward = partial(_experts, module)


def _experts(module: nn.Module, hidden_TH: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """Each expert on the tokens that chose it, as the eager code of `transformers` has it."""
    own: Any = module
    shape, hidden_TH = hidden_TH.shape, hidden_TH.reshape(-1, hidden_TH.shape[-1])
    result_TH = torch.zeros_like(hidden_TH)
    chosen, weights = top_k_index.reshape(len(hidden_TH), -1), top_k_weights.reshape(len(hidden_TH), -1)
    for expert in torch.unique(chosen).tolist():
        if not 0 <= expert < own.num_experts:
            continue
        tokens, place = torch.where(chosen == expert)
        x = hidden_TH[tokens]
        x = _projected(own, "gate_up_proj" if own.has_gate else "up_proj", x, expert)
        x = own._apply_gate(x) if own.has_gate else own.act_fn(x)
        x = _projected(own, "down_proj", x, expert)
        result_TH.index_add_(0, tokens, (x * weights[tokens, place, None]).to(result_TH.dtype))
    return result_TH.view(shape)


def _projected(own: Any, name: str, x: Tensor, expert: int) -> Tensor:
    held_here = getattr(own, name)
    if isinstance(held_here, QuantizedWeight):
        x = times(held_here, x, expert)
    else:
        matrix = held_here[expert]
        x = x @ matrix if own.is_transposed else linear(x, matrix)
    return x + getattr(own, f"{name}_bias")[expert] if own.has_bias else x
