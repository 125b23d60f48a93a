"""Tells the head how far away other machines are and how wide the links to them. Knows nothing of placements."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from muster.errors import LinkDown, ProtocolViolation
from muster.link.base import Channel, short_id
from muster.link.tasks import Tasks
from muster.node.neighbours import Neighbours
from muster.node.probes import Probes, greet, measure_bandwidth
from muster.spec.pool import NodeId
from muster.wire.messages.base import Address
from muster.wire.messages.every import AnyMessage
from muster.wire.messages.membership import PeerMeasured

log = structlog.get_logger()
ROUND_TRIPS_EVERY_S = 30.0
"""A round trip may grow long while a placement lasts."""
MAX_BANDWIDTHS = 256
"""Of so many links it is remembered how wide they are."""


class LinkReports:
    def __init__(self, neighbours: Neighbours, tell: Callable[[AnyMessage], None], tasks: Tasks) -> None:
        self._neighbours = neighbours
        self._tell = tell
        self._tasks = tasks
        self._probes = Probes()
        self._bandwidths: dict[NodeId, float] = {}
        """What was measured last: a head that was started again, or lost this node for a moment, has forgotten it."""

    def reached(self, address: Address, round_trip_s: float) -> None:
        """A neighbour has answered."""
        self._say(address.node, round_trip_s)
        if self._probes.take(address.node, asyncio.get_running_loop().time()):
            # Beside the rest: nobody's tokens wait for a measurement.
            self._tasks.spawn(self.measure(address.node, lambda: self._neighbours.open(address, "bulk")))

    async def measure(self, peer: NodeId, open_channel: Callable[[], Awaitable[Channel]]) -> None:
        """Load the link to `peer` for a moment to see how wide it is."""
        try:
            bulk = await open_channel()
            try:
                round_trip_s = await greet(bulk, peer)
                bandwidth = await measure_bandwidth(bulk, peer, round_trip_s)
            finally:
                await bulk.close()
        except (LinkDown, ProtocolViolation) as error:
            log.info("measure.failed", peer=short_id(peer), reason=str(error))
            self._probes.forget(peer)
            return
        self._say(peer, round_trip_s, measured=bandwidth)

    async def tell_round_trips(self) -> None:
        """Of every neighbour that is connected, for ever."""
        while True:
            await asyncio.sleep(ROUND_TRIPS_EVERY_S)
            self.tell_again()

    def tell_again(self) -> None:
        """All that is known of the links to neighbours, without loading any."""
        for peer, round_trip_s in self._neighbours.round_trips_s().items():
            self._say(peer, round_trip_s)

    def _say(self, peer: NodeId, round_trip_s: float, measured: float | None = None) -> None:
        bandwidth = self._bandwidths.pop(peer, 0.0) if measured is None else measured
        if bandwidth > 0:
            self._bandwidths[peer] = bandwidth
            if len(self._bandwidths) > MAX_BANDWIDTHS:
                del self._bandwidths[next(iter(self._bandwidths))]
        self._tell(PeerMeasured(peer=peer, round_trip_s=round_trip_s, bandwidth_bytes_per_s=bandwidth))
