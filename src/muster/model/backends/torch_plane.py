"""Pieces computed by torch: calls of known operators, one after another, each value gone after its last use."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from muster.errors import StepFailed, Unsupported
from muster.model.backends.base import Array, StepOptions, check_values, check_weights
from muster.model.graph.program import Constructor, GraphPiece, GraphProgram, Operand, Reference, Several, gradient_of

_NAMES = """
_adaptive_avg_pool2d _adaptive_avg_pool2d_backward _log_softmax _log_softmax_backward_data
_native_batch_norm_legit _native_batch_norm_legit_functional _native_batch_norm_legit_no_training _softmax
_softmax_backward_data _to_copy _unsafe_view abs add addmm alias alias_copy amax amin any arange argmax
as_strided avg_pool2d avg_pool2d_backward baddbmm bitwise_and bitwise_not bitwise_or bmm cat ceil clamp
clamp_max clamp_min clone constant_pad_nd convolution convolution_backward copy cos cumsum detach div
embedding embedding_dense_backward empty empty_permuted eq erf exp expand fill flip floor full full_like
gather ge gelu gelu_backward gt index index_add index_put index_select isinf isnan le lift_fresh_copy log
log1p logical_and logical_not logical_or lt masked_fill max_pool2d_with_indices
max_pool2d_with_indices_backward maximum mean minimum mm mul native_batch_norm_backward native_group_norm
native_group_norm_backward native_layer_norm native_layer_norm_backward ne neg new_zeros nll_loss_backward
nll_loss_forward ones ones_like permute pow reciprocal relu remainder repeat rsqrt rsub scalar_tensor scatter
scatter_add select select_backward select_scatter sigmoid sigmoid_backward sign silu silu_backward sin slice
slice_backward slice_scatter split split_with_sizes sqrt squeeze stack sub sum t tanh tanh_backward
threshold_backward transpose tril triu unbind unsqueeze upsample_nearest2d upsample_nearest2d_backward var
var_mean view where zeros zeros_like
"""
OPERATORS = frozenset(_NAMES.split())
"""Of ATen, by their names: without side effects, files or randomness."""
Run = Callable[..., Any]


def supported(operator: str) -> bool:
    name = operator.removeprefix("aten.").split(".")[0]
    return operator == "getitem" or (operator.startswith("aten.") and name in OPERATORS)


def resolve(operator: str) -> Run:
    """Raises `Unsupported` for an operator that is not in the list, or that this torch does not have."""
    if operator == "getitem":
        return lambda made, index: made[index]
    if supported(operator) and operator.count(".") == 2:
        _, name, overload = operator.split(".")
        found = getattr(getattr(torch.ops.aten, name, None), overload, None)
        if isinstance(found, torch._ops.OpOverload):
            return found
    raise Unsupported(f"The operator {operator[:80]} is not run here; leave its piece to another machine.")


def run_program(
    program: GraphProgram,
    inputs: Mapping[str, Tensor],
    device: torch.device,
    instead: Mapping[str, Run] = {},
) -> list[Tensor | None]:
    """Its outputs. `instead`: operators that are computed otherwise."""
    values: dict[str, Any] = {name: inputs[name] for name in program.inputs}
    for call, gone in zip(program.calls, program.last_uses(), strict=True):
        run = instead.get(call.operator) or resolve(call.operator)
        operands = [_resolved(one, values, device) for one in call.operands]
        options = {name: _resolved(one, values, device) for name, one in call.options}
        values[call.result] = run(*operands, **options)
        for name in gone:
            del values[name]
    return [None if name is None else values[name] for name in program.outputs]


def _resolved(operand: Operand, values: Mapping[str, Any], device: torch.device) -> Any:
    if isinstance(operand, Reference):
        return values[operand.name]
    if isinstance(operand, Several):
        return [_resolved(one, values, device) for one in operand.items]
    if isinstance(operand, Constructor):
        return device if operand.kind == "device" else getattr(torch, operand.name)
    return operand


class TorchPlane:
    name = "torch"

    def __init__(self, device: str = "cpu") -> None:
        self._device = torch.device(device)
        self._kept: dict[int, list[Tensor]] = {}

    def load(self, piece: GraphPiece, weights: Mapping[str, Array]) -> None:
        missing = sorted(self.missing(piece))
        if missing:
            raise Unsupported(f"torch does not run {', '.join(missing)} here; leave the piece to another machine.")
        check_weights(piece, weights)
        self.piece = piece
        kept = {one.name: self._tensor(weights[one.name]).clone() for one in (*piece.parameters, *piece.buffers)}
        self._held = kept
        self._sums = {one.name: torch.zeros_like(kept[one.name]) for one in piece.parameters}
        self._optimizer: torch.optim.Optimizer | None = None

    @staticmethod
    def missing(piece: GraphPiece) -> set[str]:
        """Operators of the piece that are not run here."""
        programs = [piece.forward, *([piece.backward] if piece.backward else [])]
        return {call.operator for program in programs for call in program.calls if not supported(call.operator)}

    def _tensor(self, array: Array) -> Tensor:
        return torch.from_numpy(np.asarray(array, order="C")).to(self._device)

    @torch.no_grad()
    def forward(self, number: int, values: Mapping[str, Array], *, keep: bool = True) -> dict[str, Array]:
        piece = self.piece
        check_values(piece.inputs, values, f"Piece {piece.index}")
        inputs = self._held | {one.name: self._tensor(values[one.name]) for one in piece.inputs}
        made = run_program(piece.forward, inputs, self._device)
        outputs, rest = made[: len(piece.outputs)], made[len(piece.outputs) :]
        for (buffer, _), value in zip(piece.updates, rest, strict=False):
            assert value is not None
            self._held[buffer] = value.clone()
        if keep and piece.backward is not None:
            self._kept[number] = [one for one in rest[len(piece.updates) :] if one is not None]
        found = {
            one.name: _array(value) for one, value in zip(piece.outputs, outputs, strict=True) if value is not None
        }
        check_values(piece.outputs, found, f"Piece {piece.index}")
        return found

    @torch.no_grad()
    def backward(self, number: int, gradients: Mapping[str, Array]) -> dict[str, Array]:
        piece = self.piece
        if piece.backward is None or number not in self._kept:
            raise StepFailed(f"Piece {piece.index} has kept nothing of microbatch {number}; send its values again.")
        saved = self._kept.pop(number)
        inputs = dict(zip(piece.backward.inputs, saved, strict=False))
        inputs |= {gradient_of(name): self._tensor(gradients[name]) for name in piece.differentiable}
        made = run_program(piece.backward, inputs, self._device)
        for one, value in zip(piece.parameters, made, strict=False):
            if value is not None:
                self._sums[one.name] += value
        shapes = {one.name: one for one in piece.inputs}
        found = {}
        for name, value in zip(piece.wanted, made[len(piece.parameters) :], strict=True):
            found[name] = np.zeros(shapes[name].shape, shapes[name].dtype) if value is None else _array(value)
        check_values([shapes[name] for name in piece.wanted], found, f"The gradients of piece {piece.index}")
        return found

    def gradient(self, parameter: str) -> Array:
        return _array(self._sums[parameter])

    def step(self, options: StepOptions, replaced: Mapping[str, Array]) -> None:
        names = [one.name for one in self.piece.parameters]
        if not names:
            return
        if self._optimizer is None:
            self._optimizer = _optimizer([self._held[name] for name in names], options)
        for name in names:
            given = replaced.get(name)
            self._held[name].grad = self._sums[name] if given is None else self._tensor(given)
        self._optimizer.step()
        for name in names:
            self._held[name].grad = None
            self._sums[name] = torch.zeros_like(self._held[name])

    def weights(self) -> dict[str, Array]:
        return {name: _array(tensor).copy() for name, tensor in self._held.items()}


def _array(tensor: Tensor) -> Array:
    found: Array = tensor.detach().cpu().contiguous().numpy()
    return found


def _optimizer(weights: list[Tensor], options: StepOptions) -> torch.optim.Optimizer:
    if options.optimizer == "sgd":
        return torch.optim.SGD(
            weights, options.learning_rate, momentum=options.momentum, weight_decay=options.weight_decay
        )
    return torch.optim.AdamW(
        weights, options.learning_rate, betas=options.betas, eps=options.epsilon, weight_decay=options.weight_decay
    )
