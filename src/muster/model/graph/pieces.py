"""A captured network in contiguous pieces: which operators each has, and which values cross. Differentiates nothing.

A value may leave its piece for several later ones, and jump over others. A parameter that two pieces use is kept by
both, and their gradients are to be summed.
"""

import operator as python_operator
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, fx

from muster.errors import InvalidRequest
from muster.model.graph.capture import CapturedGraph
from muster.model.graph.estimate import whole


@dataclass(frozen=True)
class PieceNodes:
    """Of one piece."""

    index: int
    nodes: tuple[fx.Node, ...]
    weights: tuple[fx.Node, ...]
    """Nodes that stand for them, each once."""
    inputs: tuple[fx.Node, ...]
    """From earlier pieces or from outside the network."""
    outputs: tuple[fx.Node, ...]
    updates: tuple[tuple[str, fx.Node], ...]


def evenly(captured: CapturedGraph, count: int) -> list[list[str]]:
    """Names of operators for `count` pieces with equally many of them; where a planner has nothing to say."""
    names = [node.name for node in captured.calls if node.target is not python_operator.getitem]
    ends = [round(index * len(names) / count) for index in range(count + 1)]
    return [names[a:b] for a, b in pairwise(ends)]


def piece_nodes(captured: CapturedGraph, operators: Sequence[Sequence[str]]) -> list[PieceNodes]:
    """`operators`: names for each piece, in the order of pieces. Raises `InvalidRequest` where they make no pieces."""
    place = {name: index for index, names in enumerate(operators) for name in names}
    calls = captured.calls
    known = {node.name for node in calls if node.target is not python_operator.getitem}
    if place.keys() != known or sum(map(len, operators)) != len(known) or not all(map(len, operators)):
        raise InvalidRequest("The pieces do not hold every operator once, one at least in each; cut anew.", "pieces")
    where = {node.name: place[whole(node).name] for node in calls}
    for node in calls:
        back = [one.name for one in node.all_input_nodes if where.get(one.name, 0) > where[node.name]]
        if back:
            raise InvalidRequest(
                f"The operator {node.name} of piece {where[node.name]} needs {back[0]} of a later one; "
                "cut so that data flow forward only.",
                "pieces",
            )
    return [_piece(captured, index, where) for index in range(len(operators))]


def _piece(captured: CapturedGraph, index: int, where: dict[str, int]) -> PieceNodes:
    own = [node for node in captured.calls if where[node.name] == index]
    taken = list(dict.fromkeys(each for node in own for each in node.all_input_nodes))
    weights: dict[str, fx.Node] = {}
    for each in taken:
        if each.name in captured.weight_of:
            weights.setdefault(captured.weight_of[each.name], each)
    inputs = [each for each in taken if each.name not in captured.weight_of and where.get(each.name, -1) != index]
    given, changed = set(captured.outputs), {value: buffer for buffer, value in captured.updates.items()}
    leaving = [
        node
        for node in own
        if isinstance(node.meta.get("val"), Tensor)
        and (node.name in given or any(where.get(user.name, index) > index for user in node.users))
    ]
    updates = tuple((changed[node.name], node) for node in own if node.name in changed)
    return PieceNodes(index, tuple(own), tuple(weights.values()), tuple(inputs), tuple(leaving), updates)
