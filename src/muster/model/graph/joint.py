"""A piece's forward and backward as programs, by AOTAutograd: whoever runs them needs no autograd of its own.

`recompute` leaves it to a minimum cut which values the backward makes again instead of keeping them
(`torch._functorch.partitioners`); otherwise everything that the backward needs is kept.
"""

import operator as python_operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._decomp import core_aten_decompositions
from torch._functorch.aot_autograd import aot_export_joint_simple
from torch._functorch.partitioners import default_partition, min_cut_rematerialization_partition
from torch._subclasses.fake_tensor import FakeTensorMode

from muster.errors import UnsupportedModel
from muster.model.graph.capture import CHECK, CapturedGraph, plain_attention
from muster.model.graph.pieces import PieceNodes, piece_nodes
from muster.model.graph.program import (
    Constructor,
    GraphPiece,
    GraphProgram,
    Operand,
    OperatorCall,
    Reference,
    Several,
    TensorSpec,
    gradient_of,
)


def pieces(
    captured: CapturedGraph, operators: Sequence[Sequence[str]], *, train: bool = True, recompute: bool = False
) -> list[GraphPiece]:
    """The pieces that hold these operators, named by piece; `estimate.operator_graph` names them.

    Raises `InvalidRequest` where they make no pieces, `UnsupportedModel` where one cannot be differentiated.
    """
    differentiable: set[str] = set()
    return [
        _Joint(captured, nodes, differentiable).piece(train, recompute) for nodes in piece_nodes(captured, operators)
    ]


class _Joint:
    def __init__(self, captured: CapturedGraph, nodes: PieceNodes, differentiable: set[str]) -> None:
        """`differentiable`: values of earlier pieces that depend on parameters; those of this one are added."""
        self._captured, self._nodes, self._differentiable = captured, nodes, differentiable
        names = [(captured.weight_of[node.name], node) for node in nodes.weights]
        self._parameters = [pair for pair in names if pair[0] in captured.parameters]
        self._buffers = [pair for pair in names if pair[0] not in captured.parameters]
        self._placeholders = [*self._parameters, *self._buffers, *((node.name, node) for node in nodes.inputs)]

    def piece(self, train: bool, recompute: bool) -> GraphPiece:
        module = self._module()
        results = [*self._nodes.outputs, *(node for _, node in self._nodes.updates)]
        examples, outputs = self._examples(module, train)
        given = [node.name for node, made in zip(results, outputs, strict=True) if made.requires_grad and train][
            : len(self._nodes.outputs)
        ]
        self._differentiable |= set(given)
        with plain_attention():
            joint: Any = aot_export_joint_simple(
                module, examples, trace_joint=bool(given), decompositions=_decompositions()
            )
        forward, backward = joint, None
        if given:
            part = min_cut_rematerialization_partition if recompute else default_partition
            forward, backward = part(joint, None, num_fwd_outputs=len(results))
        return self._written(forward, backward, [node.name for node in results], given)

    def _module(self) -> fx.GraphModule:
        graph, made = fx.Graph(), {}
        for _, node in self._placeholders:
            made[node] = graph.placeholder(node.name)
        alias = {self._captured.weight_of[node.name]: node for node in self._nodes.weights}

        def there(node: fx.Node) -> fx.Node:
            weight = self._captured.weight_of.get(node.name)
            return made[node if weight is None else alias[weight]]

        for node in self._nodes.nodes:
            made[node] = graph.node_copy(node, there)
            if node.target is torch.ops.aten.view.default:
                # What was laid out otherwise where it was made comes here row by row, and may not be seen so.
                made[node].target = torch.ops.aten.reshape.default
        results = [*self._nodes.outputs, *(node for _, node in self._nodes.updates)]
        row_by_row: dict[str, Any] = {"memory_format": torch.contiguous_format}
        graph.output(
            tuple(graph.call_function(torch.ops.aten.clone.default, (made[node],), row_by_row) for node in results)
        )
        return fx.GraphModule(torch.nn.Module(), graph)

    def _examples(self, module: fx.GraphModule, train: bool) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Inputs without numbers, and what comes of them; as both are, gradients flow."""
        examples = []
        with FakeTensorMode():
            for name, node in self._placeholders:
                shape = node.meta["val"]
                flows = name in self._captured.parameters or node.name in self._differentiable
                one = torch.empty(shape.shape, dtype=shape.dtype)
                examples.append(one.requires_grad_(train and flows and one.is_floating_point()))
            return tuple(examples), module(*examples)

    def _written(
        self, forward: fx.GraphModule, backward: fx.GraphModule | None, results: Sequence[str], given: Sequence[str]
    ) -> GraphPiece:
        index, nodes = self._nodes.index, self._nodes.inputs
        wanted = [node.name for node in nodes if node.name in self._differentiable]
        own_names = [name for name, _ in self._placeholders]
        placed = [node for node in forward.graph.nodes if node.op == "placeholder"]
        names = dict(zip((node.name for node in placed), own_names, strict=True))
        saved_of: dict[str, str] = {}
        forward_program = _program(forward, names, own_names, results, f"{index}.", saved_of)
        backward_program = None
        if backward is not None:
            slots = [node for node in backward.graph.nodes if node.op == "placeholder"]
            kept, tangents = slots[: len(slots) - len(given)], slots[len(slots) - len(given) :]
            inputs = {node.name: saved_of[node.name] for node in kept}
            inputs |= {node.name: gradient_of(name) for node, name in zip(tangents, given, strict=True)}
            backward_program = _program(backward, inputs, list(inputs.values()), [], f"{index}.back.", {})
            places = [own_names.index(name) for name, _ in self._parameters] + [
                own_names.index(name) for name in wanted
            ]
            gradients = tuple(backward_program.outputs[place] for place in places)
            backward_program = GraphProgram(backward_program.inputs, backward_program.calls, gradients)
        return GraphPiece(
            index,
            tuple(_spec(node.name, node) for node in self._nodes.inputs),
            tuple(_spec(node.name, node) for node in self._nodes.outputs),
            tuple(_spec(name, node) for name, node in self._parameters),
            tuple(_spec(name, node) for name, node in self._buffers),
            tuple((buffer, node.name) for buffer, node in self._nodes.updates),
            forward_program,
            backward_program,
            tuple(given),
            tuple(wanted),
        )


def _decompositions() -> Any:
    """Of gradients and composed operators into simpler ones."""
    return core_aten_decompositions()


def _spec(name: str, node: fx.Node) -> TensorSpec:
    value = node.meta["val"]
    return TensorSpec(name, _dtype(value), tuple(int(side) for side in value.shape))


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _program(
    module: fx.GraphModule,
    names: Mapping[str, str],
    inputs: Sequence[str],
    results: Sequence[str],
    prefix: str,
    called: dict[str, str],
) -> GraphProgram:
    """`names`: placeholder -> what it is called outside. Outputs are called as in `results`, as far as that goes, and
    everything else after its node; `called` is told what each node of the module is called."""
    outputs = next(node for node in module.graph.nodes if node.op == "output").args[0]
    called |= names
    wanted = {}
    calls: list[OperatorCall] = []
    for node, name in zip(outputs, results, strict=False):
        if node.op == "call_function" and node.name not in wanted and node.name not in called:
            wanted[node.name] = name
    for node in module.graph.nodes:
        if node.op == "call_function" and node.target is not CHECK:
            called[node.name] = wanted.get(node.name, prefix + node.name)
            calls.append(_call(node, called))
        elif node.op == "get_attr":
            raise UnsupportedModel(
                f"A piece makes a tensor of its own ({node.target}); register it as a buffer of the module."
            )
    given: list[str | None] = [None if node is None else called[node.name] for node in outputs]
    for place, name in enumerate(results):
        if given[place] != name:  # an output that is an input, or twice the same value
            calls.append(OperatorCall(name, "aten.clone.default", (Reference(str(given[place])),)))
            given[place] = name
    return GraphProgram(tuple(inputs), tuple(calls), tuple(given))


def _call(node: fx.Node, called: Mapping[str, str]) -> OperatorCall:
    if node.target is python_operator.getitem:
        target = "getitem"
    elif isinstance(node.target, torch._ops.OpOverload) and node.target.namespace == "aten":
        target = str(node.target)
    else:
        raise UnsupportedModel(f"The operator {node.target} is not one of ATen's; take it out of the module.")
    return OperatorCall(
        called[node.name],
        target,
        tuple(_operand(one, called) for one in node.args),
        tuple((name, _operand(one, called)) for name, one in node.kwargs.items()),
    )


def _operand(argument: Any, called: Mapping[str, str]) -> Operand:
    if isinstance(argument, fx.Node):
        return Reference(called[argument.name])
    if isinstance(argument, list | tuple):
        return Several(tuple(_operand(one, called) for one in argument))
    if isinstance(argument, torch.dtype):
        return Constructor("dtype", str(argument).removeprefix("torch."))
    if isinstance(argument, torch.device):
        return Constructor("device")
    if isinstance(argument, torch.layout):
        return Constructor("layout", str(argument).removeprefix("torch."))
    if isinstance(argument, torch.memory_format):
        return Constructor("memory_format", str(argument).removeprefix("torch."))
    if argument is None or isinstance(argument, bool | int | float | str):
        return argument
    raise UnsupportedModel(f"An operator takes a {type(argument).__name__}, which is no number; use fixed shapes.")
