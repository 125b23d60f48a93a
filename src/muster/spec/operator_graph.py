"""A network as operators and the data that flows between them (an OP-DAG). Knows nothing of where it came from.

FusionLLM (arXiv 2410.12707): a node is an operator or a whole layer, an edge a data dependency.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from muster.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Operator:
    name: str
    flops: float
    """Of one microbatch; in training forward and backward together."""
    parameter_bytes: int = 0
    """Kept where it runs; in training with gradients and the state of the optimizer."""


@dataclass(frozen=True, slots=True)
class DataEdge:
    """What `target` needs of `source`."""

    source: str
    target: str
    nbytes: int
    """Of one microbatch; in training there and back together."""


@dataclass(frozen=True)
class OperatorGraph:
    """Raises `InvalidRequest` on a name that is there twice or not at all, on negative sizes and on a cycle."""

    operators: tuple[Operator, ...]
    edges: tuple[DataEdge, ...] = ()

    def __post_init__(self) -> None:
        names = {operator.name for operator in self.operators}
        if not self.operators or len(names) < len(self.operators):
            raise InvalidRequest("The operators need names of their own, one operator at least.", "operators")
        for edge in self.edges:
            for name in (edge.source, edge.target):
                if name not in names:
                    raise InvalidRequest(f"An edge names the operator {name!r}, which is not there; add it.", "edges")
        sizes = [(one.name, one.flops, one.parameter_bytes) for one in self.operators]
        sizes += [(f"{edge.source} -> {edge.target}", 0.0, edge.nbytes) for edge in self.edges]
        for name, flops, nbytes in sizes:
            if not 0 <= flops < float("inf") or nbytes < 0:
                raise InvalidRequest(f"{name} has {flops} FLOPs and {nbytes} bytes; give zero or more.", "operators")
        if len(self.order) < len(self.operators):
            lost = sorted(names - {self.operators[index].name for index in self.order})
            raise InvalidRequest(f"The operators {', '.join(lost[:5])} wait for each other; break the cycle.", "edges")

    @cached_property
    def index(self) -> dict[str, int]:
        return {operator.name: index for index, operator in enumerate(self.operators)}

    @cached_property
    def order(self) -> tuple[int, ...]:
        """Indices so that every edge leads forward; what follows an operator comes soon after it (depth first).

        Shorter than `operators` if there is a cycle.
        """
        return tuple(self._ordered(newest_first=True))

    @cached_property
    def order_by_level(self) -> tuple[int, ...]:
        """Another such order: operators that are equally far from the start are together (breadth first)."""
        return tuple(self._ordered(newest_first=False))

    def _ordered(self, newest_first: bool) -> Iterator[int]:
        after: list[list[int]] = [[] for _ in self.operators]
        waiting = [0] * len(self.operators)
        for edge in self.edges:
            after[self.index[edge.source]].append(self.index[edge.target])
            waiting[self.index[edge.target]] += 1
        ready = [index for index, count in enumerate(waiting) if count == 0]
        if newest_first:
            ready.reverse()
        while ready:
            here = ready.pop() if newest_first else ready.pop(0)
            yield here
            for following in reversed(after[here]) if newest_first else after[here]:
                waiting[following] -= 1
                if waiting[following] == 0:
                    ready.append(following)
