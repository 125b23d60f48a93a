"""How this node reaches others: one connection a peer, dialled once, or through the head where dialling fails.

Knows nothing of what is said on the channels.
"""

import asyncio

import structlog

from muster.errors import LinkDown
from muster.link.base import Channel, Connection, Endpoint, short_id
from muster.link.relay import RelayCarrier
from muster.node.probes import GREETING_S
from muster.wire.messages.base import Address

log = structlog.get_logger()
DIAL_S = 5.0
MAX_DIALS = 3
DIAL_PAUSE_S = 0.5


class Neighbours:
    """Connections that this node dialled to other nodes of its pipelines."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.carrier: RelayCarrier | None = None
        """The way through the head, while there is a head."""
        self._endpoint = endpoint
        self._connections: dict[str, Connection] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def open(self, address: Address, name: str, relayed: bool = True) -> Channel:
        """A channel to the node at `address`, through the head if need be and it may. Raises `LinkDown`."""
        try:
            async with self._locks.setdefault(address.node, asyncio.Lock()):
                connection = self._connections.get(address.node)
                if connection is None or connection.closed.is_set():
                    connection = await self._dial(address)
                    self._connections[address.node] = connection
            return await _open(connection, name)
        except LinkDown:
            if self.carrier is None or not relayed:
                raise
            log.info("dial.relayed", peer=short_id(address.node))
            return self.carrier.open(address.node, name)

    def round_trips_s(self) -> dict[str, float]:
        """To every neighbour that is connected, as the transport sees it now; asking costs nothing."""
        up = {node: connection for node, connection in self._connections.items() if not connection.closed.is_set()}
        seen = {node: connection.round_trip_s() for node, connection in up.items()}
        return {node: seconds for node, seconds in seen.items() if seconds is not None}

    async def _dial(self, address: Address) -> Connection:
        for attempt in range(1, MAX_DIALS + 1):
            try:
                return await self._endpoint.dial(address, timeout_s=DIAL_S)
            except LinkDown as error:
                log.info("dial.failed", peer=short_id(address.node), attempt=attempt, reason=str(error))
                if attempt == MAX_DIALS:
                    raise
                await asyncio.sleep(DIAL_PAUSE_S * attempt)
        raise AssertionError("unreachable")

    async def close(self) -> None:
        connections, self._connections = list(self._connections.values()), {}
        await asyncio.gather(*(connection.close() for connection in connections), return_exceptions=True)


async def _open(connection: Connection, name: str) -> Channel:
    """Raises `LinkDown`, also where the peer takes no more channels."""
    try:
        async with asyncio.timeout(GREETING_S):
            return await connection.open(name)
    except TimeoutError:
        raise LinkDown(f"Node {short_id(connection.peer)} takes no channel; restart it.") from None
