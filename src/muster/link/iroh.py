"""The real link: QUIC between Ed25519 node ids by iroh, with hole punching and an optional relay.

Contacts no third party: no public relay, no DNS discovery; a node is dialled by its id and its addresses. Knows how to
bind, dial and accept; what happens on a connection is in `iroh_connection`.
"""

from asyncio import Queue, Task, create_task, gather, timeout, wait_for
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import ip_network
from typing import Any

from iroh import iroh_ffi as iroh

from muster.errors import InvalidRequest, LinkDown, MachineTrouble
from muster.link import iroh_fast_write
from muster.link.base import short_id
from muster.link.identity import Identity
from muster.link.iroh_connection import IrohConnection
from muster.link.iroh_stripes import STRIPES_ALPN, Dial, Meetings, ip_of
from muster.link.stream import LINGER_S
from muster.spec.pool import NodeId
from muster.wire.messages.base import Address

ALPN = b"muster/1"
MAX_HANDSHAKES = 64
"""Strangers that may be shaking hands at once; more are turned away."""
MAX_HANDSHAKES_FROM_ONE_SOURCE = 32
HANDSHAKE_TIMEOUT_S = 3.0

iroh_fast_write.install()


class IrohEndpoint:
    """Implements `Endpoint`."""

    def __init__(self, endpoint: Any, node_id: NodeId, relay: str | None, external: Sequence[str]) -> None:
        self._endpoint = endpoint
        self._node_id = node_id
        self._relay = relay
        self._external = external
        self._closed = False
        self._accepted: Queue[IrohConnection | None] = Queue()
        self._connections: set[IrohConnection] = set()
        self._meetings = Meetings()
        self._handshakes: dict[Task[None], str] = {}
        """-> where it comes from."""
        self._accepting = create_task(self._accept_forever())

    @staticmethod
    async def bind(
        identity: Identity,
        port: int = 0,
        relay: str | None = None,
        *,
        host: str = "0.0.0.0",
        external: Sequence[str] = (),
    ) -> "IrohEndpoint":
        """Listen on UDP `port` (0: any free one). `external` are further `ip:port` at which this node is reached.

        Raises `MachineTrouble` when the port is taken, `InvalidRequest` for a relay that is no URL.
        """
        try:
            mode = iroh.RelayMode.custom_from_urls([relay]) if relay else iroh.RelayMode.disabled()
        except iroh.IrohError:
            raise InvalidRequest(f"{relay!r} is no relay URL; write it like https://relay.example/.", "relay") from None
        options = iroh.EndpointOptions(
            preset=iroh.preset_minimal(),
            bind_addr=f"{host}:{port}",
            secret_key=identity.secret,
            alpns=[ALPN, STRIPES_ALPN],
            relay_mode=mode,
        )
        try:
            endpoint = await iroh.Endpoint.bind(options)
        except iroh.IrohError as error:
            raise MachineTrouble(f"UDP {host}:{port} cannot be used ({_cause(error)}); choose another port.") from None
        for address in external:
            await endpoint.add_external_addr(address)
        return IrohEndpoint(endpoint, identity.node_id, relay, external)

    @property
    def node_id(self) -> NodeId:
        return self._node_id

    @property
    def port(self) -> int:
        """The UDP port that is listened on."""
        return int(self._endpoint.bound_sockets()[0].rpartition(":")[2])

    @property
    def address(self) -> Address:
        # iroh learns of the external ones a little later; they are known here at once.
        direct = [*dict.fromkeys([*self._endpoint.addr().direct_addresses(), *self._external])]
        if not direct:  # no network but the machine itself
            direct = [f"127.0.0.1:{self.port}"]
        return Address(node=self._node_id, direct=tuple(direct), relay=self._relay)

    async def dial(self, address: Address, timeout_s: float = 10.0) -> "IrohConnection":
        self._check_open()
        try:
            peer = iroh.EndpointId.from_string(address.node)
            target = iroh.EndpointAddr(peer, address.relay, list(address.direct))
            connection = await wait_for(self._endpoint.connect(target, ALPN), timeout_s)
        except TimeoutError:
            raise _unreachable(address, f"no answer within {timeout_s:g} s") from None
        except iroh.IrohError as error:
            raise _unreachable(address, _cause(error)) from None
        return self._add(connection, dial_again=lambda: self._endpoint.connect(target, STRIPES_ALPN))

    async def accept(self) -> "IrohConnection":
        connection = await self._accepted.get()
        if connection is None:
            self._accepted.put_nowait(None)  # for the next one who waits
            self._check_open()
        assert connection is not None, "only a closed endpoint stops accepting"
        return connection

    async def close(self) -> None:
        self._closed = True
        self._accepted.put_nowait(None)
        self._accepting.cancel()
        for task in self._handshakes:
            task.cancel()
        await gather(*(connection.close("the node shut down") for connection in list(self._connections)))
        with suppress(TimeoutError):  # iroh waits 3 s for a peer that it dialled in vain
            await wait_for(self._endpoint.close(), LINGER_S)
        await gather(self._accepting, *self._handshakes, return_exceptions=True)

    def _check_open(self) -> None:
        if self._closed:
            raise LinkDown("This node's endpoint is closed; start the node again.")

    def _add(self, connection: Any, source: str = "", dial_again: Dial | None = None) -> "IrohConnection":
        added = IrohConnection(connection, self._connections, self._meetings, source, dial_again)
        self._connections.add(added)
        return added

    async def _accept_forever(self) -> None:
        while (incoming := await self._endpoint.accept_next()) is not None:
            with suppress(iroh.IrohError):  # whoever knocked has given up
                source = source_of(await incoming.remote_addr())
                from_there = sum(place == source for place in self._handshakes.values())
                if len(self._handshakes) >= MAX_HANDSHAKES or from_there >= MAX_HANDSHAKES_FROM_ONE_SOURCE:
                    await incoming.refuse()
                    continue
                task = create_task(self._shake_hands(incoming, source))
                self._handshakes[task] = source
                task.add_done_callback(self._handshakes.pop)

    async def _shake_hands(self, incoming: Any, source: str) -> None:
        # A stranger's failed handshake concerns nobody here.
        with suppress(iroh.IrohError, TimeoutError):
            async with timeout(HANDSHAKE_TIMEOUT_S):
                connection = await (await incoming.accept()).connect()
            if connection.alpn() == STRIPES_ALPN:
                self._attach(connection)
            else:
                self._accepted.put_nowait(self._add(connection, source))

    def _attach(self, connection: Any) -> None:
        """To the connection that this peer has already; without one it is nobody's."""
        peer = str(connection.remote_id())
        if (first := next((each for each in self._connections if each.peer == peer), None)) is not None:
            first.attach(connection)
        else:
            connection.close(0, b"dial without stripes first")


def source_of(address: Any) -> str:
    """Of where a connection comes from what is somebody's alone: an IPv4 address, half an IPv6 address, a relay.

    A relay is one source: who hides behind it cannot be told before it has joined.
    """
    if not address.is_IP():
        return str(address.url)
    host = ip_of(address.addr)
    return str(host) if host.version == 4 else str(ip_network((host, 64), strict=False))


def _unreachable(address: Address, reason: str) -> LinkDown:
    places = ", ".join(address.direct) or address.relay or "no address"
    return LinkDown(
        f"Node {short_id(address.node)} cannot be reached at {places} ({reason}); check that it runs, that the address "
        "is right and that its UDP port is open."
    )


def _cause(error: Any) -> str:
    """The root of iroh's chain of causes, without places in its source: the part that a person can use."""
    cause = str(error.message()).strip().splitlines()[-1].strip().partition(" (/")[0]
    return "another node answers there" if "handshake failed" in cause else cause
