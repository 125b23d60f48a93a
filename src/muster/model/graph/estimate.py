"""What planners read of a captured network: FLOPs, parameter bytes and bytes between operators. Runs nothing.

Matrix products and convolutions are counted by torch's own formulas (`torch.utils.flop_counter`), everything else as
one FLOP for each number it makes. Backward counts twice the forward: once for inputs, once for weights.
"""

import math
import operator as python_operator
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils.flop_counter import flop_registry

from muster.model.graph.capture import CapturedGraph
from muster.spec.operator_graph import DataEdge, Operator, OperatorGraph


def operator_graph(captured: CapturedGraph, *, train: bool = True) -> OperatorGraph:
    """Operators in the order in which they are computed; what a getitem takes apart belongs to its operator."""
    times = 3 if train else 1
    both_ways = 2 if train else 1
    placed: set[str] = set()
    operators: list[Operator] = []
    edges: dict[tuple[str, str], int] = {}
    for node in captured.calls:
        if node.target is python_operator.getitem:
            continue
        names = [captured.weight_of[each.name] for each in node.all_input_nodes if each.name in captured.weight_of]
        own = [name for name in names if name not in placed]  # a weight that is used twice is kept where it is first
        placed.update(own)
        size = sum(captured.weights[name].nbytes for name in own)
        operators.append(Operator(node.name, times * flops(node), size))
        for each in node.all_input_nodes:
            source = whole(each)
            if source.op == "call_function" and source is not node:
                key = (source.name, node.name)
                edges[key] = max(edges.get(key, 0), both_ways * value_bytes(each))
    return OperatorGraph(tuple(operators), tuple(DataEdge(*key, nbytes) for key, nbytes in edges.items()))


def whole(node: fx.Node) -> fx.Node:
    """The operator that made a value."""
    while node.target is python_operator.getitem:
        first = node.args[0]
        assert isinstance(first, fx.Node)
        node = first
    return node


def value_bytes(node: fx.Node) -> int:
    found = node.meta.get("val")
    tensors = found if isinstance(found, tuple | list) else [found]
    return sum(one.numel() * one.element_size() for one in tensors if isinstance(one, Tensor))


def flops(node: fx.Node) -> float:
    """Of the forward pass."""
    made = node.meta.get("val")
    packet = getattr(node.target, "overloadpacket", None)
    args = torch.utils._pytree.tree_map(_value, node.args)
    kwargs = torch.utils._pytree.tree_map(_value, dict(node.kwargs))
    if packet in flop_registry:
        return float(flop_registry[packet](*args, **kwargs, out_val=made))
    if packet is torch.ops.aten.linear:
        x, weight = args[:2]
        return float(2 * x.numel() * weight.shape[0])
    if packet is torch.ops.aten.matmul:
        a, b = args[:2]
        return float(2 * a.numel() * (b.shape[-1] if b.dim() > 1 else 1))
    if packet in (torch.ops.aten.conv1d, torch.ops.aten.conv2d, torch.ops.aten.conv3d):
        assert isinstance(made, Tensor)
        weight = args[1]
        return float(2 * made.numel() * math.prod(weight.shape[1:]))
    tensors = made if isinstance(made, tuple | list) else [made]
    return float(sum(one.numel() for one in tensors if isinstance(one, Tensor)))


def _value(argument: Any) -> Any:
    return argument.meta.get("val") if isinstance(argument, fx.Node) else argument
