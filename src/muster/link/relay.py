"""Channels between two nodes that cannot dial each other, carried by the head to which both have dialled.

Both nodes hold one carrier channel (named `relay`) to the head. A `Relay` message names source, target and channel;
its payload is one whole frame, which the head passes on unread. An empty payload ends the channel. The head checks
that the source is who it says and that both are members; nodes trust the head for the source of what it passes on, as
they trust it for their placement.

A carrier is shared: frames for a channel that nobody reads hold up the others behind it, so read what you accept.
"""

from asyncio import Event, Queue, Semaphore, timeout
from collections.abc import Callable
from contextlib import suppress

from muster.errors import LinkDown, MalformedFrame, ProtocolViolation
from muster.link.base import Channel, link_down
from muster.spec.pool import NodeId
from muster.wire.frame import CHANNEL_LIMITS, Frame, FrameDecoder, Payload, encode
from muster.wire.messages.every import AnyMessage
from muster.wire.messages.transfer import Relay

MAX_WAITING_FRAMES = 64
"""Received and not yet read, of one channel; beyond it the carrier waits."""
STUCK_S = 60.0
"""How long one frame may wait for a target to take it."""
MAX_RELAYED_CHANNELS = 256
"""Open at once at one node."""


class RelayHub:
    """The head's part: passes frames between the carriers of its members."""

    def __init__(self, is_member: Callable[[NodeId], bool]) -> None:
        self._is_member = is_member
        self._carriers: dict[NodeId, Channel] = {}

    async def serve(self, node: NodeId, carrier: Channel) -> None:
        """Pass on what `node` sends until its carrier ends. `node` is authenticated by the connection.

        Raises `ProtocolViolation` when the node breaks the rules of relaying; its carrier is then closed.
        """
        before, self._carriers[node] = self._carriers.get(node), carrier
        try:
            if before is not None:
                await before.close()  # one each: a carrier may hold a large frame that is being received
            while True:
                message, payload = await carrier.receive()
                await self._pass_on(node, carrier, message, payload)
        except LinkDown:
            pass
        finally:
            if self._carriers.get(node) is carrier:
                del self._carriers[node]
            await carrier.close()

    async def _pass_on(self, node: NodeId, carrier: Channel, message: AnyMessage, payload: memoryview) -> None:
        if not isinstance(message, Relay) or message.source != node:
            raise ProtocolViolation("A node relays in another's name; ban it or reinstall it.")
        target = self._carriers.get(message.target)
        if target is not None and self._is_member(node) and self._is_member(message.target):
            with suppress(LinkDown):
                await self._hand_over(target, message, payload)
                return
        if payload:  # tell the sender that there is no such channel
            await carrier.send(Relay(source=message.target, target=node, channel=message.channel))

    @staticmethod
    async def _hand_over(target: Channel, message: Relay, payload: memoryview) -> None:
        """Raises `LinkDown`, also where the target has stopped to read: its senders have other channels as well."""
        try:
            async with timeout(STUCK_S):
                await target.send(message, payload)
        except TimeoutError:
            await target.close()
            raise LinkDown("The target of a relayed frame does not read; restart it.") from None


class RelayCarrier:
    """A node's part: opens and accepts channels over its one carrier. `run` must be running."""

    def __init__(self, node: NodeId, carrier: Channel) -> None:
        self.node = node
        self._carrier = carrier
        self._channels: dict[tuple[NodeId, str], RelayChannel] = {}
        self._accepted: Queue[RelayChannel | None] = Queue()
        self._opened = 0

    async def run(self) -> None:
        """Hand what arrives to its channel, until the carrier ends; then every channel is down."""
        try:
            while True:
                message, payload = await self._carrier.receive()
                if not isinstance(message, Relay) or message.target != self.node:
                    raise ProtocolViolation("The head relays what is not for this node; restart the head.")
                await self._deliver(message, payload)
        except LinkDown:
            pass
        finally:
            for channel in list(self._channels.values()):
                channel.end()
            self._accepted.put_nowait(None)
            await self._carrier.close()

    def open(self, peer: NodeId, name: str) -> "RelayChannel":
        """A channel to `peer`, which hears of it with the first frame."""
        self._opened += 1
        # The opener's id keeps two nodes that open at the same time from choosing the same label.
        return self._add(peer, f"{name}/{self.node[:8]}/{self._opened}")

    async def accept(self) -> "RelayChannel":
        """The next channel that another node opened. Raises `LinkDown` once the carrier is gone."""
        channel = await self._accepted.get()
        if channel is None:
            self._accepted.put_nowait(None)
            raise link_down(self.node, "the carrier to the head is closed")
        return channel

    async def send(self, peer: NodeId, label: str, frame: bytes) -> None:
        await self._carrier.send(Relay(source=self.node, target=peer, channel=label), frame)

    def forget(self, channel: "RelayChannel") -> None:
        self._channels.pop((channel.peer, channel.label), None)

    def _add(self, peer: NodeId, label: str) -> "RelayChannel":
        channel = self._channels[peer, label] = RelayChannel(self, peer, label)
        return channel

    async def _deliver(self, message: Relay, payload: memoryview) -> None:
        channel = self._channels.get((message.source, message.channel))
        if channel is None and payload and self._may_open(message.channel):
            channel = self._add(message.source, message.channel)
            self._accepted.put_nowait(channel)
        if channel is None:
            return  # the rest of a channel that was closed here
        if payload:
            await channel.put(payload)
        else:
            channel.end()

    def _may_open(self, label: str) -> bool:
        known = len(label) < 64 and label.partition("/")[0] in CHANNEL_LIMITS
        return known and len(self._channels) < MAX_RELAYED_CHANNELS


class RelayChannel:
    """Implements `Channel`."""

    def __init__(self, carrier: RelayCarrier, peer: NodeId, label: str) -> None:
        self.peer = peer
        self.label = label
        self.name = label.partition("/")[0]
        self._limits = CHANNEL_LIMITS[self.name]
        self._carrier = carrier
        self._frames: Queue[memoryview | None] = Queue()
        self._room = Semaphore(MAX_WAITING_FRAMES)
        self._ended = Event()

    async def send(self, message: AnyMessage, payload: Payload = b"") -> None:
        frame = b"".join(encode(message, payload, self._limits))
        if self._ended.is_set():
            raise link_down(self.peer, "closed")
        await self._carrier.send(self.peer, self.label, frame)

    async def receive(self) -> Frame:
        frame = await self._frames.get()
        if frame is None:
            self._frames.put_nowait(None)
            raise link_down(self.peer, "closed by the peer")
        self._room.release()
        try:
            return self._decode(frame)
        except ProtocolViolation:
            await self.close()
            raise

    async def close(self) -> None:
        if not self._ended.is_set():
            self.end()
            with suppress(LinkDown):
                await self._carrier.send(self.peer, self.label, b"")

    async def put(self, frame: memoryview) -> None:
        """A frame has arrived; waits while too many are unread."""
        await self._room.acquire()
        if not self._ended.is_set():
            self._frames.put_nowait(frame)

    def end(self) -> None:
        """No frame comes or goes any more; those that came can still be read."""
        self._ended.set()
        self._carrier.forget(self)
        self._frames.put_nowait(None)
        self._room.release()

    def _decode(self, frame: memoryview) -> Frame:
        decoder = FrameDecoder(self._limits)
        frames = decoder.feed(frame)
        decoder.finish()
        if len(frames) != 1:
            raise MalformedFrame("A relayed message holds no single frame; the peer runs changed code.")
        return frames[0]
