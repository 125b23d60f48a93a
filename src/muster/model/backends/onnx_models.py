"""ONNX models of a piece, and what is checked before one is run. Needs no torch.

A model from another machine holds operators of ONNX's own domain only, all of its numbers in itself, and no more bytes
than a piece may have. So nothing is read from a disk and no library is loaded because somebody said so.
"""

from dataclasses import dataclass
from typing import Any

from muster.errors import ProtocolViolation, Unsupported

MOST_MODEL_BYTES = 2**30
MOST_NODES = 200_000
DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True, slots=True)
class OnnxModels:
    forward: bytes
    backward: bytes | None


def check_model(data: bytes) -> set[str]:
    """The operators of a model. Raises `ProtocolViolation` where it is no model that may be run here."""
    onnx = package("onnx")
    if len(data) > MOST_MODEL_BYTES:
        raise ProtocolViolation(f"An ONNX model has {len(data)} bytes and {MOST_MODEL_BYTES} are allowed; cut it.")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except Exception as error:
        raise ProtocolViolation("This is no ONNX model; export it anew.") from error
    if model.functions:
        raise ProtocolViolation("The ONNX model brings functions of its own; export it with them inlined.")
    names: set[str] = set()
    _walk(onnx, model.graph, names, 0)
    return names


def _walk(onnx: Any, graph: Any, names: set[str], depth: int) -> None:
    if len(graph.node) > MOST_NODES or depth > 8:
        raise ProtocolViolation("The ONNX model has more nodes than a piece may have; cut it smaller.")
    for tensor in graph.initializer:
        _inside(onnx, tensor)
    for node in graph.node:
        if node.domain not in DOMAINS:
            raise ProtocolViolation(
                f"The ONNX model wants {node.op_type[:40]} of {node.domain[:40]}, not ONNX's own; leave it out."
            )
        names.add(node.op_type)
        for attribute in node.attribute:
            for tensor in (attribute.t, *attribute.tensors):
                _inside(onnx, tensor)
            for inner in (attribute.g, *attribute.graphs):
                if inner.node:
                    _walk(onnx, inner, names, depth + 1)


def _inside(onnx: Any, tensor: Any) -> None:
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
        raise ProtocolViolation("The ONNX model keeps numbers in another file; export it in one piece.")


def package(name: str) -> Any:
    """Raises `Unsupported` where it is not installed."""
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Unsupported(f"This needs the package {name}; install it with `pip install 'muster[onnx]'`.") from error
