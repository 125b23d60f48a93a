"""The roles of one private session on this machine, and the post between them and the others'. Knows no link.

    loop     receives, checks who speaks for which role, sends
    threads  one for each CompNode (its pass waits in the middle), one for all AttnNodes

Who may speak for a role is who the client said has it, and the transport authenticates.
"""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

from muster.errors import LinkDown, MusterError, ProtocolViolation
from muster.link.base import short_id
from muster.model.shape import torch_dtype
from muster.node.runners.private.model import PrivateModel
from muster.private.attn_node import AttnNode, RoleRefused
from muster.private.comp_node import CompNode
from muster.spec.pool import NodeId
from muster.spec.token_shards import CLIENT, TokenShards
from muster.wire.frame import Payload, frame_bytes
from muster.wire.messages.base import Address
from muster.wire.messages.every import AnyMessage
from muster.wire.messages.private import (
    HiddenRows,
    OpenPrivate,
    PartialRows,
    PrivateClosed,
    PrivateMessage,
    RoleFailed,
)

Send = Callable[[AnyMessage, Payload], None]
"""Queue a message for a peer; never waits."""
Reach = Callable[[Address, Callable[[MusterError], None]], Awaitable[Send]]
"""The way to another machine of the session, and who is told when it is gone. Raises `MusterError`."""


class HostedSession:
    """All calls but `_post` come from the event loop."""

    def __init__(self, opened: OpenPrivate, client: NodeId, me: NodeId, reach: Reach) -> None:
        self.epoch, self.client = opened.epoch, client
        self.rule = TokenShards(opened.cluster, opened.comp_nodes, opened.shards)
        self.roles = next(each.roles for each in opened.machines if each.address.node == me)
        self.closed = PrivateClosed(epoch=opened.epoch, frames=0, payload_bytes=0, frame_bytes=0)
        self._opened = opened
        self._reach = reach
        self._holders = {role: each.address for each in opened.machines for role in each.roles}
        self._sends: dict[NodeId, Send] = {}
        self._waiting: dict[NodeId, list[tuple[PrivateMessage, Payload]]] = {}
        self._dialling: set[asyncio.Task[None]] = set()
        self._comp: dict[int, CompNode] = {}
        self._attn: dict[int, AttnNode] = {}
        self._threads: dict[int, ThreadPoolExecutor] = {}
        self._attending = ThreadPoolExecutor(1)
        self._loop = asyncio.get_running_loop()
        self._over = False

    def build(self, model: PrivateModel, cache_rows: int = 0) -> None:
        """Blocks while weights are loaded. AttnNodes hold at most so many rows; 0 sets no limit beside their own.

        Raises `MusterError`.
        """
        dtype = torch_dtype(self._opened.dtype)
        computing = [role for role in self.roles if self.rule.is_comp(role)]
        for role, stage in zip(computing, model.stages(self._opened.dtype, len(computing)), strict=True):
            self._comp[role] = CompNode(role, self.rule, stage, self._post)
            self._threads[role] = ThreadPoolExecutor(1)
        for role in set(self.roles) - set(computing):
            layers = model.network.layers
            self._attn[role] = AttnNode(role, self.rule, layers, dtype, self._opened.max_tokens, cache_rows)

    def attach(self, send: Send, peer: NodeId) -> None:
        """What is for `peer` may leave so."""
        self._sends.setdefault(peer, send)

    def forget(self, send: Send) -> None:
        """Nothing leaves so any more."""
        self._sends = {peer: kept for peer, kept in self._sends.items() if kept != send}

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
        if node in self._sends:
            self._sends[node](message, payload)
        elif node in self._waiting:
            self._waiting[node].append((message, payload))
        elif node != self.client:  # who comes by itself, or is gone
            self._waiting[node] = [(message, payload)]
            task = asyncio.create_task(self._dial(node))
            self._dialling.add(task)
            task.add_done_callback(self._dialling.discard)

    async def _dial(self, node: NodeId) -> None:
        address = next(each for each in self._holders.values() if each.node == node)
        try:
            send = await self._reach(address, lambda error: self.lost(node, error))
        except MusterError as error:
            self._waiting.pop(node, None)
            self.lost(node, error)
            return
        send = self._sends.setdefault(node, send)
        for message, payload in self._waiting.pop(node, ()):
            send(message, payload)

    def lost(self, node: NodeId, error: MusterError) -> None:
        """The way to another machine is gone."""
        if not self._over and node != self.client:
            self.fail(error, node)
