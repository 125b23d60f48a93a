"""An `nn.Module` and example inputs become a list of operators without side effects, by `torch.export`.

Shapes are those of the examples. Custom code runs here, on the machine of whoever wrote it, and nowhere else.
"""

import traceback
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind, OutputKind
from torch.nn.attention import SDPBackend, sdpa_kernel

from muster.errors import UnsupportedModel

CHECK = torch.ops.aten._assert_tensor_metadata.default
"""Says what is known, and computes nothing."""
_LIBRARY = (str(Path(torch.__file__).parent), str(Path(__file__).parent))


@dataclass(frozen=True)
class CapturedGraph:
    graph: fx.Graph
    """Nodes of inputs, then calls of operators; each node's `meta["val"]` has its shape and dtype."""
    weights: Mapping[str, Tensor]
    """Parameters, buffers and constants by name; those that are one tensor have one name."""
    parameters: frozenset[str]
    """Those of them that are trained."""
    weight_of: Mapping[str, str]
    """Node of an input -> name in `weights`."""
    inputs: tuple[str, ...]
    """Nodes of those that a caller gives, in the order of the example inputs."""
    outputs: tuple[str, ...]
    """Values that the network gives out; in training the first is the loss."""
    updates: Mapping[str, str]
    """Buffer -> value that it holds after a forward pass."""

    @property
    def calls(self) -> list[fx.Node]:
        return [node for node in self.graph.nodes if node.op == "call_function"]


def capture(module: nn.Module, examples: Sequence[Any], named: Mapping[str, Any] | None = None) -> CapturedGraph:
    """Raises `UnsupportedModel` with the operator and the line of the module's code where it cannot be captured."""
    try:
        with warnings.catch_warnings(), plain_attention():
            warnings.simplefilter("ignore")
            exported = torch.export.export(module, tuple(examples), dict(named or {}), strict=False)
            exported = exported.run_decompositions({})
    except Exception as error:
        raise UnsupportedModel(_sentence(error)) from error
    return _captured(exported)


def plain_attention() -> AbstractContextManager[Any]:
    """Attention in matrix products: its fused forms have no backward that other planes know."""
    return sdpa_kernel([SDPBackend.MATH])


def _sentence(error: Exception) -> str:
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith((*_LIBRARY, "<"))]
    where = f" at {Path(own[-1].filename).name}:{own[-1].lineno} ({own[-1].line})" if own else ""
    return (
        f"The module cannot be written down as a graph{where}: {said[:200].rstrip('.')}. Take decisions that depend on "
        "values out of its forward, or use torch.where."
    )


def _captured(exported: torch.export.ExportedProgram) -> CapturedGraph:
    signature, state = exported.graph_signature, {**exported.state_dict, **exported.constants}
    first_name: dict[tuple[int, int], str] = {}
    weight_of, parameters, inputs = {}, set(), []
    for spec in signature.input_specs:
        if spec.kind == InputKind.USER_INPUT:
            inputs.append(spec.arg.name)
            continue
        if spec.target is None or not isinstance(state.get(spec.target), Tensor):
            raise UnsupportedModel(f"The input {spec.arg.name} is no tensor; give tensors as inputs and weights.")
        tensor = state[spec.target]
        name = first_name.setdefault((tensor.data_ptr() or id(tensor), tensor.numel()), spec.target)
        weight_of[spec.arg.name] = name
        if spec.kind == InputKind.PARAMETER and tensor.requires_grad:
            parameters.add(name)
    outputs, updates = [], {}
    for made in signature.output_specs:
        if made.kind == OutputKind.USER_OUTPUT:
            outputs.append(made.arg.name)
        elif made.kind == OutputKind.BUFFER_MUTATION and made.target is not None:
            updates[made.target] = made.arg.name
        else:
            raise UnsupportedModel(f"The module changes its input {made.target}; let it make a new tensor instead.")
    for node in reversed(list(exported.graph.nodes)):
        if node.target is CHECK:
            exported.graph.erase_node(node)
    names = set(weight_of.values())
    weights = {name: state[name].detach() for name in names}
    return CapturedGraph(
        exported.graph, weights, frozenset(parameters), weight_of, tuple(inputs), tuple(outputs), updates
    )
