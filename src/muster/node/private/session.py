"""The roles of one private session on this machine, and the post between them and the others'.

    loop     receives, checks who speaks for which role, sends
    threads  one for each CompNode (its pass waits in the middle), one for all AttnNodes

Who may speak for a role is who the client said has it, and the transport authenticates.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from muster.errors import LinkDown, MusterError, ProtocolViolation
from muster.link.base import Channel, Endpoint, short_id
from muster.link.outbox import Outbox
from muster.model.shape import torch_dtype
from muster.node.private.model import PrivateModel
from muster.private.attn_node import AttnNode, RoleRefused
from muster.private.comp_node import CompNode
from muster.spec.pool import NodeId
from muster.spec.token_shards import CLIENT, TokenShards
from muster.wire.frame import Payload, frame_bytes
from muster.wire.messages.private import (
    HiddenRows,
    OpenPrivate,
    PartialRows,
    PrivateClosed,
    PrivateMessage,
    RoleFailed,
)

DIAL_S = 10.0


class HostedSession:
    """All calls but `_post` come from the event loop."""

    def __init__(
        self, opened: OpenPrivate, client: NodeId, endpoint: Endpoint, listen: Callable[[Channel, NodeId], None]
    ) -> None:
        """`listen` is called with each channel that this session dials."""
        self.epoch, self.client = opened.epoch, client
        self.rule = TokenShards(opened.cluster, opened.comp_nodes, opened.shards)
        self.roles = next(each.roles for each in opened.machines if each.address.node == endpoint.node_id)
        self.closed = PrivateClosed(epoch=opened.epoch, frames=0, payload_bytes=0, frame_bytes=0)
        self._opened = opened
        self._endpoint, self._listen = endpoint, listen
        self._holders = {role: each.address for each in opened.machines for role in each.roles}
        self._outboxes: dict[NodeId, Outbox] = {}
        self._waiting: dict[NodeId, list[tuple[PrivateMessage, Payload]]] = {}
        self._dialling: set[asyncio.Task[None]] = set()
        self._comp: dict[int, CompNode] = {}
        self._attn: dict[int, AttnNode] = {}
        self._threads: dict[int, ThreadPoolExecutor] = {}
        self._attending = ThreadPoolExecutor(1)
        self._loop = asyncio.get_running_loop()
        self._over = False

    def build(self, model: PrivateModel) -> None:
        """Blocks while weights are loaded. Raises `MusterError`."""
        dtype = torch_dtype(self._opened.dtype)
        computing = [role for role in self.roles if self.rule.is_comp(role)]
        for role, stage in zip(computing, model.stages(self._opened.dtype, len(computing)), strict=True):
            self._comp[role] = CompNode(role, self.rule, stage, self._post)
            self._threads[role] = ThreadPoolExecutor(1)
        for role in set(self.roles) - set(computing):
            layers = model.network.layers
            self._attn[role] = AttnNode(role, self.rule, layers, dtype, self._opened.max_tokens)

    def attach(self, channel: Channel, peer: NodeId) -> None:
        """What is for `peer` may leave on this channel, which it opened."""
        if peer not in self._outboxes:
            self._outboxes[peer] = Outbox(channel, self._lost(peer))

    def admits(self, peer: NodeId) -> bool:
        return peer == self.client or any(address.node == peer for address in self._holders.values())

    def receive(self, peer: NodeId, message: PrivateMessage, payload: Payload) -> None:
        """Raises `ProtocolViolation` where `peer` does not have the role that it speaks for."""
        speaker = self.client if message.sender == CLIENT else self._node_of(message.sender)
        if speaker != peer:
            raise ProtocolViolation(
                f"Node {short_id(peer)} spoke for {self.rule.name(message.sender)}, which is another's role."
            )
        if message.receiver not in self.roles:
            raise ProtocolViolation(
                f"Node {short_id(peer)} wrote to {self.rule.name(message.receiver)}, which is not here."
            )
        self._deliver(message, payload)

    def fail(self, error: MusterError, node: NodeId = "") -> None:
        """Tell the client, and whose fault it seems to be; what waits for parts waits no more."""
        for comp in self._comp.values():
            comp.give_up(error)
        self._send(
            RoleFailed(
                epoch=self.epoch,
                sender=next(iter(self.roles), CLIENT),
                receiver=CLIENT,
                code=error.code,
                reason=str(error)[:500],
                node=node,
            ),
            b"",
        )

    async def close(self) -> None:
        """Nothing computes any more when it returns; what was held is dropped."""
        self._over = True
        for node in self._comp.values():
            node.give_up(LinkDown("The private session is over; open another one."))
        for task in self._dialling:
            task.cancel()
        for peer, outbox in self._outboxes.items():
            if peer != self.client:
                await outbox.close()
        for threads in (self._attending, *self._threads.values()):
            await asyncio.to_thread(threads.shutdown, True, cancel_futures=True)

    def _node_of(self, role: int) -> NodeId | None:
        address = self._holders.get(role)
        return None if address is None else address.node

    def _deliver(self, message: PrivateMessage, payload: Payload) -> None:
        role = message.receiver
        if role in self._attn:
            self._attending.submit(self._attend, message, payload)
        elif isinstance(message, PartialRows):
            self._comp[role].take(message, payload)
        elif isinstance(message, HiddenRows):
            self._threads[role].submit(self._compute, message, payload)
        else:
            raise ProtocolViolation(f"{self.rule.name(role)} takes no {type(message).__name__}; update both machines.")

    def _compute(self, message: HiddenRows, payload: Payload) -> None:
        try:
            self._comp[message.receiver].run(message, payload)
        except MusterError as error:
            self._tell(error, self._node_of(error.role) if isinstance(error, RoleRefused) else None)

    def _attend(self, message: PrivateMessage, payload: Payload) -> None:
        try:
            for letter in self._attn[message.receiver].handle(message, payload):
                self._post(*letter)
        except MusterError as error:
            self._tell(error, self._node_of(message.sender))

    def _tell(self, error: MusterError, node: NodeId | None) -> None:
        if not self._over:
            self._loop.call_soon_threadsafe(self.fail, error, node or "")

    def _post(self, message: PrivateMessage, payload: Payload) -> None:
        """From any thread."""
        if message.receiver in self.roles:
            self._deliver(message, payload)
        elif not self._over:
            self._loop.call_soon_threadsafe(self._send, message, payload)

    def _send(self, message: PrivateMessage, payload: Payload) -> None:
        node = self.client if message.receiver == CLIENT else self._node_of(message.receiver)
        if node is None or self._over:
            return
        self.closed = PrivateClosed(
            epoch=self.epoch,
            frames=self.closed.frames + 1,
            payload_bytes=self.closed.payload_bytes + memoryview(payload).nbytes,
            frame_bytes=self.closed.frame_bytes + frame_bytes(message, payload),
        )
        if node in self._outboxes:
            self._outboxes[node].put(message, payload)
        elif node in self._waiting:
            self._waiting[node].append((message, payload))
        else:
            self._waiting[node] = [(message, payload)]
            task = asyncio.create_task(self._dial(node))
            self._dialling.add(task)
            task.add_done_callback(self._dialling.discard)

    async def _dial(self, node: NodeId) -> None:
        address = next(each for each in self._holders.values() if each.node == node)
        try:
            connection = await self._endpoint.dial(address, DIAL_S)
            channel = await connection.open("data")
        except LinkDown as error:
            self._waiting.pop(node, None)
            self.fail(error, node)
            return
        self._listen(channel, node)
        outbox = self._outboxes.setdefault(node, Outbox(channel, self._lost(node)))
        for message, payload in self._waiting.pop(node, ()):
            outbox.put(message, payload)

    def _lost(self, node: NodeId) -> Callable[[MusterError], None]:
        def lost(error: MusterError) -> None:
            if not self._over and node != self.client:
                self.fail(error, node)

        return lost
