"""The in-memory twin of a real link: same frames, same back-pressure, no socket and no clock.

All endpoints of one `MemoryNetwork` can dial each other, except those made with `reachable=False` (behind a NAT, they
only dial out) and pairs that were `cut`. Everything happens in the order in which the event loop runs its tasks.
"""

from asyncio import Event, Queue
from collections import deque
from collections.abc import Sequence

from muster.errors import LinkDown, ProtocolViolation
from muster.link.base import link_down, short_id
from muster.link.change import Change
from muster.link.stream import StreamChannel
from muster.spec.pool import NodeId
from muster.wire.frame import CHANNEL_LIMITS, Payload
from muster.wire.messages.base import Address

WINDOW_BYTES = 1024 * 1024
"""Bytes under way in one direction of one channel before its writer waits."""


class MemoryNetwork:
    def __init__(self) -> None:
        self._endpoints: dict[NodeId, MemoryEndpoint] = {}
        self._cut: set[frozenset[NodeId]] = set()

    def endpoint(self, node_id: NodeId, *, reachable: bool = True) -> "MemoryEndpoint":
        endpoint = MemoryEndpoint(self, node_id, reachable)
        self._endpoints[node_id] = endpoint
        return endpoint

    def cut(self, a: NodeId, b: NodeId, reason: str = "connection lost") -> None:
        """Lose every connection between `a` and `b`, with all that was under way, and let them build no new one."""
        self._cut.add(frozenset((a, b)))
        for connection in list(self._endpoints[a].connections if a in self._endpoints else ()):
            if connection.peer == b:
                connection.lose(reason)

    def heal(self, a: NodeId, b: NodeId) -> None:
        self._cut.discard(frozenset((a, b)))

    def target(self, source: NodeId, address: Address) -> "MemoryEndpoint":
        """The endpoint that `source` reaches at `address`."""
        target = self._endpoints.get(address.node)
        if target is None or target.is_closed or not target.reachable or frozenset((source, address.node)) in self._cut:
            raise LinkDown(
                f"Node {short_id(address.node)} does not answer; check that it runs and that the address is right."
            )
        return target


class MemoryEndpoint:
    """Implements `Endpoint`."""

    def __init__(self, network: MemoryNetwork, node_id: NodeId, reachable: bool) -> None:
        self._network = network
        self._node_id = node_id
        self._accepted: Queue[MemoryConnection | None] = Queue()
        self.reachable = reachable
        self.is_closed = False
        self.connections: set[MemoryConnection] = set()

    @property
    def node_id(self) -> NodeId:
        return self._node_id

    @property
    def address(self) -> Address:
        return Address(node=self._node_id, direct=("memory",))

    async def dial(self, address: Address, timeout_s: float = 10.0) -> "MemoryConnection":
        self._check_open()
        target = self._network.target(self._node_id, address)
        here, there = MemoryConnection(self, target.node_id), MemoryConnection(target, self._node_id)
        here.other, there.other = there, here
        self.connections.add(here)
        target.connections.add(there)
        target._accepted.put_nowait(there)
        return here

    async def accept(self) -> "MemoryConnection":
        self._check_open()
        connection = await self._accepted.get()
        if connection is None:
            self._accepted.put_nowait(None)  # for the next one who waits
            self._check_open()
        assert connection is not None, "only a closed endpoint stops accepting"
        return connection

    async def close(self) -> None:
        if self.is_closed:
            return
        self.is_closed = True
        self._accepted.put_nowait(None)
        for connection in list(self.connections):
            await connection.close("the node shut down")

    def crash(self) -> None:
        """Vanish without a goodbye, as a killed process does; what was under way is lost."""
        self.is_closed = True
        self._accepted.put_nowait(None)
        for connection in list(self.connections):
            connection.lose("connection lost")

    def _check_open(self) -> None:
        if self.is_closed:
            raise LinkDown("This node's endpoint is closed; start the node again.")


class MemoryConnection:
    """Implements `Connection`. Both ends exist at once and hold each other."""

    other: "MemoryConnection"

    def __init__(self, endpoint: MemoryEndpoint, peer: NodeId) -> None:
        self._endpoint = endpoint
        self._peer = peer
        self._closed = Event()
        self._reason = ""
        self._accepted: Queue[tuple[str, StreamChannel] | None] = Queue()
        self._channels: list[tuple[StreamChannel, _MemoryStream]] = []

    @property
    def peer(self) -> NodeId:
        return self._peer

    @property
    def source(self) -> str:
        return "memory"

    @property
    def closed(self) -> Event:
        return self._closed

    async def open(self, name: str) -> StreamChannel:
        self._check_open()
        if name not in CHANNEL_LIMITS:
            raise ProtocolViolation(f"There is no channel {name!r}; choose one of {', '.join(CHANNEL_LIMITS)}.")
        here = self._endpoint.node_id
        out, back = _Pipe(here, self._peer), _Pipe(self._peer, here)
        channel = self._add(name, _MemoryStream(incoming=back, outgoing=out))
        self.other._accepted.put_nowait((name, self.other._add(name, _MemoryStream(incoming=out, outgoing=back))))
        return channel

    async def accept(self) -> tuple[str, StreamChannel]:
        self._check_open()
        opened = await self._accepted.get()
        if opened is None:
            self._accepted.put_nowait(None)
            raise link_down(self._peer, self._reason)
        return opened

    async def close(self, reason: str = "") -> None:
        if self._closed.is_set():
            return
        for channel, _ in self._channels:
            await channel.close()
        self._mark_closed("closed by this node")
        self.other._mark_closed(reason or "closed by the peer")

    def lose(self, reason: str) -> None:
        """Break, from both ends and with all that was under way."""
        for end in (self, self.other):
            for _, stream in end._channels:
                stream.abort()
            end._mark_closed(reason)

    def round_trip_s(self) -> float | None:
        return None

    def _add(self, name: str, stream: "_MemoryStream") -> StreamChannel:
        channel = StreamChannel(stream, self._peer, name)
        self._channels.append((channel, stream))
        return channel

    def _mark_closed(self, reason: str) -> None:
        if not self._closed.is_set():
            self._reason = reason
            self._closed.set()
            self._accepted.put_nowait(None)
            self._endpoint.connections.discard(self)

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise link_down(self._peer, self._reason)


class _Pipe:
    """One direction of a channel: a bounded buffer of bytes."""

    def __init__(self, writer: NodeId, reader: NodeId) -> None:
        self._writer = writer
        self._reader = reader
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._finished = False
        self._broken = False
        self._change = Change()

    async def write(self, data: memoryview) -> None:
        while data:
            while self._size >= WINDOW_BYTES and not (self._broken or self._finished):
                await self._change.wait()
            if self._broken or self._finished:
                raise link_down(self._reader, "closed by the peer")
            chunk = bytes(data[: WINDOW_BYTES - self._size])
            data = data[len(chunk) :]
            self._chunks.append(chunk)
            self._size += len(chunk)
            self._change.tell()

    async def read(self) -> bytes:
        while not self._chunks and not (self._broken or self._finished):
            await self._change.wait()
        if self._broken:
            raise link_down(self._writer, "connection lost")
        if not self._chunks:
            return b""
        chunk = self._chunks.popleft()
        self._size -= len(chunk)
        self._change.tell()
        return chunk

    def finish(self) -> None:
        self._finished = True
        self._change.tell()

    def abort(self) -> None:
        self._broken = True
        self._chunks.clear()
        self._size = 0
        self._change.tell()


class _MemoryStream:
    """Implements `ByteStream`."""

    def __init__(self, incoming: _Pipe, outgoing: _Pipe) -> None:
        self._incoming = incoming
        self._outgoing = outgoing

    async def write(self, buffers: Sequence[Payload]) -> None:
        for buffer in buffers:
            await self._outgoing.write(memoryview(buffer).cast("B"))

    async def read(self, wanted: int) -> bytes:
        return await self._incoming.read()

    async def finish(self) -> None:
        self._outgoing.finish()
        self._incoming.abort()

    def abort(self) -> None:
        self._outgoing.abort()
        self._incoming.abort()
