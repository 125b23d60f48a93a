"""A graph with fewer operators that cuts as well: what costs little and has one source stays with that source.

A captured network has hundreds of views, activations and norms between its products. Joining an operator with the only
one that feeds it makes no cycle, since nothing can lie between them; and no cut worth having separates the two, unless
the operator makes less than it takes, and then the joint one gives what the last of its parts gives.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from muster.spec.operator_graph import DataEdge, Operator, OperatorGraph

SMALL = 0.002
"""Of all FLOPs, or of all parameters: an operator with less of both is not worth a place of its own."""


@dataclass(frozen=True, slots=True)
class CoarseGraph:
    graph: OperatorGraph
    members: dict[str, tuple[str, ...]]
    """Of each joint operator, those that it stands for, in their order."""

    def names(self, operators: Sequence[str]) -> list[str]:
        return [name for operator in operators for name in self.members[operator]]


def coarsened(graph: OperatorGraph, small: float = SMALL) -> CoarseGraph:
    flops = small * sum(operator.flops for operator in graph.operators)
    parameters = small * sum(operator.parameter_bytes for operator in graph.operators)
    sources: dict[str, set[str]] = {operator.name: set() for operator in graph.operators}
    for edge in graph.edges:
        sources[edge.target].add(edge.source)
    tied = {name for edge in graph.edges for name in (edge.source, edge.target)}
    alone = {index for index, operator in enumerate(graph.operators) if operator.name not in tied}
    place: dict[str, str] = {}
    last = ""
    members: dict[str, list[str]] = {}
    for index in graph.order:
        operator = graph.operators[index]
        feeding = {place[source] for source in sources[operator.name]}
        is_small = operator.flops <= flops and operator.parameter_bytes <= parameters
        to = operator.name
        if is_small and len(feeding) == 1:
            to = feeding.pop()
        elif is_small and index in alone and members:
            to = last  # a counter of batches, say: wherever it is, it disturbs nobody
        place[operator.name] = to
        members.setdefault(to, []).append(operator.name)
        last = to
    found = OperatorGraph(tuple(_joint(graph, name, some) for name, some in members.items()), _edges(graph, place))
    return CoarseGraph(found, {name: tuple(some) for name, some in members.items()})


def _joint(graph: OperatorGraph, name: str, members: Sequence[str]) -> Operator:
    every = [graph.operators[graph.index[member]] for member in members]
    return Operator(name, sum(one.flops for one in every), sum(one.parameter_bytes for one in every))


def _edges(graph: OperatorGraph, place: dict[str, str]) -> tuple[DataEdge, ...]:
    """A value that several members read crosses once; values of several members add up."""
    values: dict[tuple[str, str, str], int] = {}
    for edge in graph.edges:
        source, target = place[edge.source], place[edge.target]
        if source != target:
            key = source, target, edge.source
            values[key] = max(values.get(key, 0), edge.nbytes)
    nbytes: dict[tuple[str, str], int] = {}
    for (source, target, _), size in values.items():
        nbytes[source, target] = nbytes.get((source, target), 0) + size
    return tuple(DataEdge(source, target, size) for (source, target), size in nbytes.items())
