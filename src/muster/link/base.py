"""What a link is, whatever carries it. Knows nothing of iroh, memory or shaping.

An endpoint is this machine's place on the network. It dials or accepts connections; a connection's `peer` is
authenticated by whatever carries it. A connection holds channels; a channel is an ordered, reliable stream of frames in
each direction, and one channel never waits behind another.
"""

from asyncio import Event
from typing import Protocol

from muster.errors import LinkDown
from muster.spec.pool import NodeId
from muster.wire.frame import Frame, Payload
from muster.wire.messages.base import Address
from muster.wire.messages.every import AnyMessage


class Channel(Protocol):
    """One task may send while another receives; sends from several tasks keep frames whole."""

    async def send(self, message: AnyMessage, payload: Payload = b"") -> None:
        """Returns when the frame is on its way; waits while the peer is slower. Do not change `payload` before.

        A cancelled send sends the whole frame or nothing of it. Raises `LinkDown`, and `FrameTooLarge` before
        anything is sent.
        """

    async def receive(self) -> Frame:
        """The next message and its payload, which the caller then owns. Cancelling loses nothing.

        Frames that arrived before the end are still delivered; then `LinkDown`. A bad frame raises
        `ProtocolViolation` and the channel is closed.
        """

    async def close(self) -> None:
        """What was sent still arrives; then the peer sees `LinkDown`."""


class Connection(Protocol):
    @property
    def peer(self) -> NodeId:
        """Authenticated by the transport."""

    @property
    def source(self) -> str:
        """Where one that was accepted comes from, as far as it can be told: an address is shared by few."""

    @property
    def closed(self) -> Event:
        """Set once the connection is gone, from either side or from a lost network."""

    async def open(self, name: str) -> Channel:
        """A new channel; `name` is a key of `CHANNEL_LIMITS`. Raises `LinkDown`."""

    async def accept(self) -> tuple[str, Channel]:
        """The next channel that the peer opened, and its name. Raises `LinkDown`."""

    async def close(self, reason: str = "") -> None:
        """Closes every channel. The peer is told `reason`."""

    def round_trip_s(self) -> float | None:
        """As the transport sees it now, if it does."""


class Endpoint(Protocol):
    @property
    def node_id(self) -> NodeId: ...

    @property
    def address(self) -> Address:
        """What others need to dial this endpoint."""

    async def dial(self, address: Address, timeout_s: float = 10.0) -> Connection:
        """Raises `LinkDown` with the remedy when nobody answers, or somebody else does."""

    async def accept(self) -> Connection:
        """The next connection that somebody dialled. Raises `LinkDown` once the endpoint is closed."""

    async def close(self) -> None:
        """Closes every connection."""


def link_down(peer: NodeId, reason: str) -> LinkDown:
    return LinkDown(
        f"The link to node {short_id(peer)} is down ({reason or 'closed'}); check that the node runs and is reachable."
    )


def short_id(node: NodeId) -> str:
    """Enough of an id for a person to tell nodes apart."""
    return node[:10]
