"""A `World` in one process: faults that happen to shaped endpoints, and to whatever runs behind them.

Knows links; what leaving and slowing mean for the nodes behind them is handed in.
"""

from collections.abc import Awaitable, Callable, Sequence

from muster.link.shaped import ShapedEndpoint


class EndpointWorld:
    """Implements `faults.World`. Nodes are numbered as in `endpoints`."""

    def __init__(
        self,
        endpoints: Sequence[ShapedEndpoint],
        slow: Callable[[int, float], None] = lambda node, factor: None,
        leave: Callable[[int], Awaitable[None]] | None = None,
    ) -> None:
        """`leave` defaults to closing the endpoint, which is all that others notice of a node that vanished."""
        self._endpoints = tuple(endpoints)
        self._slow = slow
        self._leave = leave

    async def leave(self, node: int) -> None:
        if self._leave is not None:
            await self._leave(node)
        else:
            await self._endpoints[node].close()

    async def cut(self, one: int, other: int) -> None:
        first, second = self._endpoints[one], self._endpoints[other]
        first.cut(second.node_id)
        second.cut(first.node_id)

    async def heal(self, one: int, other: int) -> None:
        first, second = self._endpoints[one], self._endpoints[other]
        first.heal(second.node_id)
        second.heal(first.node_id)

    async def slow(self, node: int, factor: float) -> None:
        self._slow(node, factor)
