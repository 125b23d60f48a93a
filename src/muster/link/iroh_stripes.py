"""Further QUIC connections beside a far one, so that its channels do not hang on one congestion control.

The binding lets nobody choose windows or congestion control, which is CUBIC: at a round trip of 200 ms and one lost
packet in a thousand a connection gets some 3 Mbit/s of any link, and without loss a stream gets its window of 1.25 MB
for each round trip. So whoever dialled a far peer dials it some more times before the first channel of those kinds that
carry much, and such a channel runs over a stream on each (`stripes`). Near peers, and those that do not answer to
`STRIPES_ALPN`, have one connection as ever.

Knows nothing of frames.
"""

import os
from asyncio import Queue, gather, get_running_loop, timeout, wait_for
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from math import ceil
from typing import Any

from iroh.iroh_ffi import IrohError

from muster.spec.pool import NodeId

STRIPES_ALPN = b"muster/1/stripe"
STRIPED = frozenset({"data", "bulk"})
FAR_S = 0.025
"""A round trip; nearer peers need no more than one connection."""
ROUND_TRIP_FOR_EACH_S = 0.005
"""What CUBIC gets of a lossy link falls with the round trip; so many more connections make up for it."""
MAX_STRIPES = 48
MAX_STRANGERS = 4 * MAX_STRIPES
"""Streams of one peer that wait for the channel they belong to."""
TOKEN_BYTES = 8
MEETING_S = 5.0
HANDSHAKES_AT_ONCE = 12
HANDSHAKE_S = 2.5
"""What takes longer has lost packets; there are enough others."""

Stream = tuple[Any, Any]
"""Send and receive."""
Dial = Callable[[], Awaitable[Any]]


def further_connections(round_trip_s: float | None, addresses: Iterable[str]) -> int:
    """How many beside the first; `addresses` are those of the peer, as `ip:port`. None where they are this machine's
    own: a busy machine takes its time to answer itself, too."""
    if round_trip_s is None or round_trip_s < FAR_S or any(ip_of(address).is_loopback for address in addresses):
        return 0
    return min(MAX_STRIPES, ceil(round_trip_s / ROUND_TRIP_FOR_EACH_S)) - 1


def ip_of(address: str) -> IPv4Address | IPv6Address:
    """Of `ip:port`; of an IPv4 address in IPv6 clothes the former."""
    host = ip_address(address.rpartition(":")[0].strip("[]").partition("%")[0])
    return host.ipv4_mapped or host if host.version == 6 else host


async def dial_further(dial: Dial, count: int) -> list[Any]:
    """As many as answer in time. A peer that answers none of the first is not asked again."""
    made: list[Any] = []
    for start in range(0, count, HANDSHAKES_AT_ONCE):
        tries = min(HANDSHAKES_AT_ONCE, count - start)
        answers = await gather(*(wait_for(dial(), HANDSHAKE_S) for _ in range(tries)), return_exceptions=True)
        made += [answer for answer in answers if not isinstance(answer, BaseException)]
        if not made:
            break
    return made


async def open_further(connections: list[Any], token: bytes) -> list[Stream]:
    """A stream on each, announced as a part of the channel `token`. Raises `IrohError`."""

    async def open_one(connection: Any) -> Stream:
        stream = await connection.open_bi()
        send = stream.send()
        await send.write_all(token)
        return send, stream.recv()

    return list(await gather(*(open_one(connection) for connection in connections)))


def new_token() -> bytes:
    return os.urandom(TOKEN_BYTES)


class Meetings:
    """Where streams of one channel find each other, in whatever order and on whichever connection they come.

    By peer and token: a stranger's streams never meet another's channel.
    """

    def __init__(self) -> None:
        self._waiting: dict[tuple[NodeId, bytes], Queue[Stream]] = {}

    async def serve(self, peer: NodeId, connection: Any) -> None:
        """Take all streams of a further connection until it ends."""
        with suppress(IrohError):
            while True:
                stream = await connection.accept_bi()
                with suppress(IrohError, TimeoutError):
                    async with timeout(MEETING_S):
                        token = bytes(await stream.recv().read_exact(TOKEN_BYTES))
                    self._bring(peer, token, (stream.send(), stream.recv()))

    async def meet(self, peer: NodeId, token: bytes, count: int) -> list[Stream]:
        """The other streams of a channel. Raises `TimeoutError`."""
        queue = self._queue(peer, token)
        try:
            async with timeout(MEETING_S):
                return [await queue.get() for _ in range(count)]
        finally:
            self._waiting.pop((peer, token), None)

    def _bring(self, peer: NodeId, token: bytes, stream: Stream) -> None:
        waiting = sum(queue.qsize() for (other, _), queue in self._waiting.items() if other == peer)
        if waiting < MAX_STRANGERS:
            self._queue(peer, token).put_nowait(stream)

    def _queue(self, peer: NodeId, token: bytes) -> "Queue[Stream]":
        place = (peer, token)
        if place not in self._waiting:
            self._waiting[place] = Queue()
            get_running_loop().call_later(2 * MEETING_S, self._waiting.pop, place, None)
        return self._waiting[place]
