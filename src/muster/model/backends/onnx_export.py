"""A piece's programs as ONNX models, made where torch is, for planes that have none.

Operators that ONNX has no words for are written with those it has: the gradients of a convolution are convolutions.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from muster.errors import Unsupported
from muster.model.backends.onnx_models import OnnxModels
from muster.model.backends.torch_plane import Run, run_program
from muster.model.graph.program import GraphPiece, GraphProgram, TensorSpec, gradient_of, made_names

CPU = torch.device("cpu")


def onnx_models(piece: GraphPiece) -> OnnxModels:
    """Raises `Unsupported` with the operator where ONNX cannot say what the piece does."""
    specs = {one.name: one for one in (*piece.parameters, *piece.buffers, *piece.inputs)}
    examples = {name: _example(one) for name, one in specs.items()}
    forward, made = _model(piece.forward, examples)
    backward = None
    if piece.backward is not None:
        outputs = {one.name: one for one in piece.outputs}
        pairs = zip(piece.forward.outputs, made, strict=True)
        known = examples | {name: value for name, value in pairs if name is not None and value is not None}
        known |= {gradient_of(name): _example(outputs[name]) for name in piece.differentiable}
        backward, _ = _model(piece.backward, {name: known[name] for name in piece.backward.inputs})
    return OnnxModels(forward, backward)


def _example(spec: TensorSpec) -> Tensor:
    dtype = getattr(torch, spec.dtype)
    return torch.rand(spec.shape, dtype=dtype) if dtype.is_floating_point else torch.zeros(spec.shape, dtype=dtype)


class _Program(nn.Module):
    def __init__(self, program: GraphProgram, names: Sequence[str]) -> None:
        super().__init__()
        self._program = GraphProgram(program.inputs, program.calls, tuple(names))

    def forward(self, *inputs: Tensor) -> tuple[Tensor | None, ...]:
        values = dict(zip(self._program.inputs, inputs, strict=True))
        return tuple(run_program(self._program, values, CPU, INSTEAD))


def _model(program: GraphProgram, examples: dict[str, Tensor]) -> tuple[bytes, list[Tensor | None]]:
    """The model, and what the program's outputs are for the examples."""
    with torch.no_grad():
        made = run_program(program, examples, CPU)
    names = made_names(program)
    arguments = tuple(examples[name] for name in program.inputs)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), _silence():
            warnings.simplefilter("ignore")
            exported = torch.onnx.export(
                _Program(program, names),
                arguments,
                dynamo=True,
                input_names=[f"in{place}" for place in range(len(arguments))],
                output_names=[f"out{place}" for place in range(len(names))],
                verbose=False,
            )
    except Exception as error:
        said = [line for line in str(error).splitlines() if "No ONNX function" in line or "DispatchError" in line]
        reason = (said or [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__])[0]
        raise Unsupported(
            f"ONNX cannot say what a piece does ({reason[:200]}); leave it to a machine with torch."
        ) from error
    assert exported is not None
    return exported.model_proto.SerializeToString(), made


@contextlib.contextmanager
def _silence() -> Any:
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def convolution_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    mask: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of x [N, C, H, W], weight [O, C / groups, h, w] and bias [O] of a convolution in two dimensions.

    The gradient of x is the transposed convolution; that of the weight a convolution of x with the gradient, with
    stride and dilation exchanged (Dumoulin and Visin, arXiv 1603.07285).
    """
    if transposed or x.dim() != 4:
        raise Unsupported("The gradient of this convolution is not written in ONNX; leave it to a machine with torch.")
    found_x = found_weight = found_bias = None
    if mask[0]:
        least = [
            (grad.shape[2 + i] - 1) * stride[i] - 2 * padding[i] + dilation[i] * (weight.shape[2 + i] - 1) + 1
            for i in range(2)
        ]
        extra = [x.shape[2 + i] - least[i] for i in range(2)]
        found_x = functional.conv_transpose2d(
            grad, weight, None, tuple(stride), tuple(padding), tuple(extra), groups, tuple(dilation)
        )
    if mask[1]:
        parts = []
        for x_part, grad_part in zip(x.chunk(groups, 1), grad.chunk(groups, 1), strict=True):
            part = functional.conv2d(
                x_part.transpose(0, 1), grad_part.transpose(0, 1), None, tuple(dilation), tuple(padding), tuple(stride)
            )
            parts.append(part[:, :, : weight.shape[2], : weight.shape[3]].transpose(0, 1))
        found_weight = torch.cat(parts)
    if mask[2]:
        found_bias = grad.sum((0, 2, 3))
    return found_x, found_weight, found_bias


def _batch_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    train: bool,
    momentum: float,
    epsilon: float,
) -> tuple[Tensor, ...]:
    """x [N, C, ...]; also the mean and the inverse deviation of the batch, and both running figures."""
    over = [0, *range(2, x.dim())]
    shape = [1, -1] + [1] * (x.dim() - 2)
    count = x.numel() // x.shape[1]
    batch_mean = x.mean(over)
    centered = x - batch_mean.view(shape)
    batch_variance = (centered * centered).mean(over)
    inverse = torch.rsqrt(batch_variance + epsilon)
    out = centered * (inverse * weight).view(shape) + bias.view(shape)
    new_mean = momentum * batch_mean + (1 - momentum) * mean
    new_variance = momentum * batch_variance * (count / max(1, count - 1)) + (1 - momentum) * variance
    return out, batch_mean, inverse, new_mean, new_variance


def _empty(shape: Sequence[int], order: Sequence[int], dtype: torch.dtype, **_: Any) -> Tensor:
    """How it would lie in memory is nothing to ONNX."""
    return torch.zeros(tuple(shape), dtype=dtype)


INSTEAD: dict[str, Run] = {
    "aten.convolution_backward.default": convolution_backward,
    "aten._native_batch_norm_legit_functional.default": _batch_norm,
    "aten.empty_permuted.default": _empty,
}
