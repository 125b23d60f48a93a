"""Small networks as ONNX files, which ezkl reads. Knows no prover."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from muster.errors import InvalidRequest

Activation = Literal["none", "relu", "sigmoid", "silu"]


@dataclass(frozen=True, slots=True, eq=False)
class NetworkLayer:
    """`activation(w_NK @ x_K + b_N)`; without weights only the activation."""

    w_NK: npt.NDArray[np.float32] | None
    b_N: npt.NDArray[np.float32] | None = None
    activation: Activation = "none"


def onnx_bytes(inputs: int, layers: Sequence[NetworkLayer]) -> bytes:
    """The file of a network with one row of `inputs` numbers. Raises `InvalidRequest` without the extra `zk`."""
    require("onnx")
    from onnx import TensorProto, helper

    nodes: list[Any] = []
    held: list[Any] = []
    name, width = "x", inputs
    for number, layer in enumerate(layers):
        if layer.w_NK is not None:
            name, width = _product(number, layer, name, nodes, held), len(layer.w_NK)
        name = _activation(number, layer.activation, name, nodes)
    row = [("x", inputs), (name, width)]
    ends = [helper.make_tensor_value_info(one, TensorProto.FLOAT, [1, size]) for one, size in row]
    graph = helper.make_graph(nodes, "network", ends[:1], ends[1:], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(model.SerializeToString())


def _product(number: int, layer: NetworkLayer, name: str, nodes: list[Any], held: list[Any]) -> str:
    from onnx import helper, numpy_helper

    takes = [name, f"w{number}"]
    held.append(numpy_helper.from_array(np.asarray(layer.w_NK, dtype=np.float32), takes[1]))
    if layer.b_N is not None:
        takes.append(f"b{number}")
        held.append(numpy_helper.from_array(np.asarray(layer.b_N, dtype=np.float32), takes[2]))
    nodes.append(helper.make_node("Gemm", takes, [f"y{number}"], transB=1))
    return f"y{number}"


def _activation(number: int, kind: Activation, name: str, nodes: list[Any]) -> str:
    from onnx import helper

    out = f"z{number}"
    match kind:
        case "none":
            return name
        case "relu":
            nodes.append(helper.make_node("Relu", [name], [out]))
        case "sigmoid":
            nodes.append(helper.make_node("Sigmoid", [name], [out]))
        case "silu":
            nodes.append(helper.make_node("Sigmoid", [name], [f"s{number}"]))
            nodes.append(helper.make_node("Mul", [name, f"s{number}"], [out]))
    return out


def require(package: str) -> None:
    """Raise `InvalidRequest` where an optional package is missing."""
    if importlib.util.find_spec(package) is None:
        raise InvalidRequest(
            f"Proofs need the package {package}, which is not installed; pip install 'muster-llm[zk]'."
        )
