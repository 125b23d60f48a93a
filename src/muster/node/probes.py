"""How far away another machine is and how wide the link to it, from pings that are answered at once. Knows no broker.

A bandwidth is that of the last of a few payloads, each twice the one before: the early ones open the transport's
window, and a slow link is asked for no more than it carries in a moment. It is what one transfer gets now, so it is at
most what the link could carry.
"""

import asyncio

from muster.errors import LinkDown, ProtocolViolation
from muster.link.base import Channel, short_id
from muster.wire.messages.transfer import Ping, Pong

GREETING_S = 15.0
"""How long the peer may take to hear of the placement that makes us its neighbour."""
FIRST_BYTES, MAX_BYTES = 64 * 2**10, 4 * 2**20
LONG_ENOUGH_S = 0.1
"""A payload that takes this long beyond the round trip tells enough."""
PROBE_EVERY_S = 600.0
"""A link is not loaded with payloads more often than this."""


class Probes:
    """Which links are due for a look."""

    def __init__(self) -> None:
        self._looked_s: dict[str, float] = {}

    def take(self, peer: str, now_s: float) -> bool:
        """Whether the link to `peer` is due; if so it is not again for a while."""
        self._looked_s = {known: at for known, at in self._looked_s.items() if now_s - at < PROBE_EVERY_S}
        if peer in self._looked_s:
            return False
        self._looked_s[peer] = now_s
        return True

    def forget(self, peer: str) -> None:
        """The look came to nothing; the next chance is not missed."""
        self._looked_s.pop(peer, None)


async def greet(channel: Channel, peer: str) -> float:
    """Make sure that the peer answers on this channel; the round trip in seconds. Raises `LinkDown`."""
    return min([await _answered(channel, peer, token, b"") for token in range(3)])


async def measure_bandwidth(channel: Channel, peer: str, round_trip_s: float) -> float:
    """Bytes per second from here to the peer. Raises `LinkDown`."""
    size, token = FIRST_BYTES, 3
    while True:
        took_s = await _answered(channel, peer, token, bytes(size))
        # On a busy machine the way there may seem to take no time at all.
        moving_s = max(took_s - round_trip_s, took_s / 10)
        if moving_s >= LONG_ENOUGH_S or size >= MAX_BYTES:
            return size / moving_s
        size, token = 2 * size, token + 1


async def _answered(channel: Channel, peer: str, token: int, payload: bytes) -> float:
    """Seconds until the peer has all of it and its answer is here."""
    started = _now()
    try:
        async with asyncio.timeout(GREETING_S):
            await channel.send(Ping(token=token), payload)
            message, _ = await channel.receive()
    except TimeoutError as error:
        raise LinkDown(f"Node {short_id(peer)} does not answer within {GREETING_S:.0f} s; check its link.") from error
    if not isinstance(message, Pong) or message.token != token:
        raise ProtocolViolation(f"Node {short_id(peer)} answered a ping with something else; update it.")
    return _now() - started


def _now() -> float:
    return asyncio.get_running_loop().time()
