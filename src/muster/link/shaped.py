"""A slow, far network on one machine: wraps any endpoint and makes what it sends take its time, as a scenario says.

Every endpoint shapes what it *sends*; wrap both ends and both directions are shaped, once each. Delay, jitter (order
is kept), bandwidth, loss (channels are reliable, so a loss is a delay) and cuts. Knows nothing of frames' meaning, and
no region but by asking `region_of`; a node of unknown region is `elsewhere`.
"""

from asyncio import Event, Task, create_task, gather, get_running_loop, sleep, wait
from collections import deque
from collections.abc import Callable
from pathlib import Path
from random import Random

from muster.errors import InvalidRequest, LinkDown, ProtocolViolation
from muster.link.base import Channel, Connection, Endpoint, link_down, short_id
from muster.link.change import Change
from muster.link.shaped_wire import Lane, Parcel, ShapedWire
from muster.link.stream import LINGER_S
from muster.spec.pool import NodeId
from muster.spec.scenario import Link, Scenario, parse_scenario, scenario_names, shipped_scenario
from muster.wire.frame import CHANNEL_LIMITS, Frame, Payload, encode
from muster.wire.messages.base import Address
from muster.wire.messages.every import AnyMessage

RegionOf = Callable[[NodeId], str | None]


def load_scenario(name: str) -> Scenario:
    """A scenario that comes with Muster, by its name, or a TOML file, by its path."""
    if name in scenario_names() or not name.endswith(".toml"):
        return shipped_scenario(name)
    try:
        return parse_scenario(Path(name).read_text("utf-8"))
    except (OSError, UnicodeDecodeError):
        raise InvalidRequest(f"The scenario file {name} cannot be read; check its path.", "scenario") from None


def shape(endpoint: Endpoint, scenario: Scenario, region_of: RegionOf, *, seed: int = 0) -> "ShapedEndpoint":
    """`endpoint`, as if it stood where `region_of(endpoint.node_id)` says. The scenario's clock starts now."""
    return ShapedEndpoint(endpoint, scenario, region_of, seed)


def shaped_as(scenario: str | None, endpoint: Endpoint, region_of: RegionOf) -> Endpoint:
    """`endpoint` in the scenario of this name (as `load_scenario`), or as it is."""
    return endpoint if scenario is None else shape(endpoint, load_scenario(scenario), region_of)


class ShapedEndpoint:
    """Implements `Endpoint`."""

    def __init__(self, inner: Endpoint, scenario: Scenario, region_of: RegionOf, seed: int) -> None:
        self._inner = inner
        self._scenario = scenario
        self._region_of = region_of
        self._random = Random(f"{seed} {inner.node_id}")
        self._start_s = get_running_loop().time()
        self._cut: set[NodeId] = set()
        self._connections: set[ShapedConnection] = set()
        self._cutting: set[Task[None]] = set()
        self._timetable = create_task(self._follow_timetable())

    @property
    def node_id(self) -> NodeId:
        return self._inner.node_id

    @property
    def address(self) -> Address:
        return self._inner.address

    async def dial(self, address: Address, timeout_s: float = 10.0) -> "ShapedConnection":
        if self._is_cut(address.node):
            raise LinkDown(f"Node {short_id(address.node)} does not answer (the network is cut); wait until it heals.")
        connection = self._add(await self._inner.dial(address, timeout_s))
        await sleep(connection.delay_s())  # the handshake's round trip
        return connection

    async def accept(self) -> "ShapedConnection":
        while True:
            connection = await self._inner.accept()
            if not self._is_cut(connection.peer):
                return self._add(connection)
            await connection.close("the network is cut")

    async def close(self) -> None:
        self._timetable.cancel()
        await gather(*(connection.close("the node shut down") for connection in list(self._connections)))
        await self._inner.close()
        await gather(self._timetable, *self._cutting, return_exceptions=True)

    def cut(self, peer: NodeId) -> None:
        """Lose the connections to `peer`, and let none come about until `heal`."""
        self._cut.add(peer)
        self._enforce_cuts()

    def heal(self, peer: NodeId) -> None:
        self._cut.discard(peer)

    def link_to(self, peer: NodeId) -> Link:
        return self._scenario.between(self._region_of(self.node_id), self._region_of(peer))

    def link_from(self, peer: NodeId) -> Link:
        return self._scenario.between(self._region_of(peer), self._region_of(self.node_id))

    def forget(self, connection: "ShapedConnection") -> None:
        self._connections.discard(connection)

    def _add(self, inner: Connection) -> "ShapedConnection":
        connection = ShapedConnection(self, inner, self._random)
        self._connections.add(connection)
        return connection

    def _is_cut(self, peer: NodeId) -> bool:
        since_s = get_running_loop().time() - self._start_s
        here, there = self._region_of(self.node_id), self._region_of(peer)
        return peer in self._cut or self._scenario.is_cut(here, there, since_s)

    async def _follow_timetable(self) -> None:
        for start_s in sorted({cut.start_s for cut in self._scenario.cut}):
            await sleep(max(0.0, self._start_s + start_s - get_running_loop().time()))
            self._enforce_cuts()

    def _enforce_cuts(self) -> None:
        for connection in list(self._connections):
            if self._is_cut(connection.peer):
                task = create_task(connection.lose("the network is cut"))
                self._cutting.add(task)
                task.add_done_callback(self._cutting.discard)


class ShapedConnection:
    """Implements `Connection`."""

    def __init__(self, endpoint: ShapedEndpoint, inner: Connection, random: Random) -> None:
        self._endpoint = endpoint
        self._inner = inner
        self._channels: set[ShapedChannel] = set()
        self.line = ShapedWire(lambda: endpoint.link_to(inner.peer), random)
        self._running = create_task(self._run())

    @property
    def peer(self) -> NodeId:
        return self._inner.peer

    @property
    def source(self) -> str:
        return self._inner.source

    @property
    def closed(self) -> Event:
        return self._inner.closed

    async def open(self, name: str) -> "ShapedChannel":
        return self._add(name, await self._inner.open(name))

    async def accept(self) -> tuple[str, "ShapedChannel"]:
        name, channel = await self._inner.accept()
        return name, self._add(name, channel)

    async def close(self, reason: str = "") -> None:
        await gather(*(channel.close() for channel in list(self._channels)))
        await self._inner.close(reason)
        await self._stop()

    async def lose(self, reason: str) -> None:
        """Break at once; what is under way is lost."""
        for channel in list(self._channels):
            channel.lose(reason)
        await self._inner.close(reason)
        await self._stop()

    def round_trip_s(self) -> float | None:
        return (self._inner.round_trip_s() or 0.0) + self.delay_s()

    def delay_s(self) -> float:
        """There and back, without jitter."""
        return self._endpoint.link_to(self.peer).latency_s + self._endpoint.link_from(self.peer).latency_s

    def forget(self, channel: "ShapedChannel") -> None:
        self._channels.discard(channel)

    def _add(self, name: str, inner: Channel) -> "ShapedChannel":
        channel = ShapedChannel(self, inner, name)
        self._channels.add(channel)
        return channel

    async def _run(self) -> None:
        line = create_task(self.line.run())
        try:
            await self.closed.wait()
        finally:
            line.cancel()
            await gather(line, return_exceptions=True)
            self._endpoint.forget(self)
            for channel in list(self._channels):
                channel.lose("the connection is closed")

    async def _stop(self) -> None:
        await gather(self._running, return_exceptions=True)


class ShapedChannel:
    """Implements `Channel`."""

    def __init__(self, connection: ShapedConnection, inner: Channel, name: str) -> None:
        self._connection = connection
        self._inner = inner
        self._limits = CHANNEL_LIMITS[name]
        self._lane = Lane()
        self._under_way_bytes = 0
        self._due: deque[tuple[float, AnyMessage, bytes, int]] = deque()
        self._change = Change()
        self._closing = False
        self._lost: LinkDown | None = None
        self._delivering = create_task(self._deliver())

    async def send(self, message: AnyMessage, payload: Payload = b"") -> None:
        nbytes = sum(len(buffer) for buffer in encode(message, payload, self._limits))
        while self._under_way_bytes and self._under_way_bytes + nbytes > self._connection.line.window_bytes():
            self._check_open()
            await self._change.wait()
        self._check_open()
        kept = bytes(payload)  # the caller may reuse its buffer before the frame is delivered
        self._under_way_bytes += nbytes
        parcel = Parcel(nbytes, get_running_loop().time(), lambda due_s: self._add_due(due_s, message, kept, nbytes))
        self._connection.line.put(self._lane, parcel)

    async def receive(self) -> Frame:
        try:
            return await self._inner.receive()
        except (LinkDown, ProtocolViolation) as error:
            self.lose(str(error))
            raise

    async def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        self._change.tell()
        await wait([self._delivering], timeout=LINGER_S + self._connection.delay_s())
        self.lose("closed by this node")
        await self._inner.close()

    def lose(self, reason: str) -> None:
        """What is under way is lost."""
        if self._lost is None:
            self._lost = link_down(self._connection.peer, reason)
        self._delivering.cancel()
        self._connection.forget(self)
        self._change.tell()

    def _check_open(self) -> None:
        if self._lost is not None:
            raise self._lost
        if self._closing:
            raise link_down(self._connection.peer, "closed by this node")

    def _add_due(self, due_s: float, message: AnyMessage, payload: bytes, nbytes: int) -> None:
        self._due.append((due_s, message, payload, nbytes))
        self._change.tell()

    async def _deliver(self) -> None:
        """Hand each frame to the real link when its time has come."""
        loop = get_running_loop()
        while self._under_way_bytes or not self._closing:
            if not self._due:
                await self._change.wait()
                continue
            due_s, message, payload, nbytes = self._due.popleft()
            await sleep(max(0.0, due_s - loop.time()))
            try:
                await self._inner.send(message, payload)
            except LinkDown as error:
                self._lost = error
                break
            finally:
                self._under_way_bytes -= nbytes
                self._change.tell()
