"""Pieces computed by ONNX Runtime, steps by NumPy. Imports no torch, so that a machine needs none."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from muster.errors import StepFailed, Unsupported
from muster.model.backends.base import Array, StepOptions, check_values, check_weights
from muster.model.backends.onnx_models import OnnxModels, check_model, package
from muster.model.backends.steps import NumpyOptimizer
from muster.model.graph.program import GraphPiece, GraphProgram, gradient_of, made_names


class OnnxPlane:
    name = "onnx"

    def __init__(self, models: OnnxModels, threads: int = 0) -> None:
        """Raises `ProtocolViolation` for models that are not run here, `Unsupported` without ONNX Runtime."""
        self._forward = self._session(models.forward, threads)
        self._backward = None if models.backward is None else self._session(models.backward, threads)
        self._kept: dict[int, list[Array]] = {}

    @staticmethod
    def _session(data: bytes, threads: int) -> Any:
        check_model(data)
        runtime = package("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
        options.log_severity_level = 3
        try:
            return runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            reason = str(error).splitlines()[0][:200]
            raise Unsupported(f"ONNX Runtime does not run it ({reason}); leave it to another machine.") from error

    def load(self, piece: GraphPiece, weights: Mapping[str, Array]) -> None:
        check_weights(piece, weights)
        self.piece = piece
        self._held = {one.name: weights[one.name].copy() for one in (*piece.parameters, *piece.buffers)}
        self._sums = {one.name: np.zeros(one.shape, one.dtype) for one in piece.parameters}
        self._optimizer = NumpyOptimizer()

    def forward(self, number: int, values: Mapping[str, Array], *, keep: bool = True) -> dict[str, Array]:
        piece, who = self.piece, f"Piece {self.piece.index}"
        check_values(piece.inputs, values, who)
        inputs = self._held | {one.name: values[one.name] for one in piece.inputs}
        made = _run(self._forward, piece.forward, inputs, who)
        for buffer, value in piece.updates:
            self._held[buffer] = made[value].reshape(self._held[buffer].shape)
        if keep and piece.backward is not None:
            # Weights change only in `step`, after every microbatch has gone back.
            self._kept[number] = [made[name] for name in piece.saved]
        found = {one.name: made[one.name] for one in piece.outputs}
        check_values(piece.outputs, found, who)
        return found

    def backward(self, number: int, gradients: Mapping[str, Array]) -> dict[str, Array]:
        piece, who = self.piece, f"Piece {self.piece.index}"
        if piece.backward is None or self._backward is None or number not in self._kept:
            raise StepFailed(f"{who} has kept nothing of microbatch {number}; send its values again.")
        inputs = dict(zip(piece.backward.inputs, self._kept.pop(number), strict=False))
        inputs |= {gradient_of(name): gradients[name] for name in piece.differentiable}
        made = _run(self._backward, piece.backward, inputs, who)
        outputs = [None if name is None else made[name] for name in piece.backward.outputs]
        for one, value in zip(piece.parameters, outputs, strict=False):
            if value is not None:
                self._sums[one.name] += value
        specs = {one.name: one for one in piece.inputs}
        found = {
            name: np.zeros(specs[name].shape, specs[name].dtype) if value is None else value
            for name, value in zip(piece.wanted, outputs[len(piece.parameters) :], strict=True)
        }
        check_values([specs[name] for name in piece.wanted], found, f"The gradients of piece {piece.index}")
        return found

    def gradient(self, parameter: str) -> Array:
        return self._sums[parameter]

    def step(self, options: StepOptions, replaced: Mapping[str, Array]) -> None:
        self._optimizer.step(self._held, self._sums | dict(replaced), options)
        self._sums = {name: np.zeros_like(total) for name, total in self._sums.items()}

    def weights(self) -> dict[str, Array]:
        return {name: array.copy() for name, array in self._held.items()}


def _run(session: Any, program: GraphProgram, inputs: Mapping[str, Array], who: str) -> dict[str, Array]:
    """What the program names, inputs among it."""
    names = made_names(program)
    wanted = {one.name for one in session.get_inputs()}
    places = {f"in{place}": np.asarray(inputs[name], order="C") for place, name in enumerate(program.inputs)}
    try:
        made = session.run(None, {name: value for name, value in places.items() if name in wanted})
    except Exception as error:
        raise StepFailed(f"{who} failed in ONNX Runtime ({str(error).splitlines()[0][:200]}).") from error
    return {**inputs, **dict(zip(names, made, strict=True))}
