"""One private session over links: machines that each have some roles, and steps that go through all of them.

Knows nothing of text or sampling. A machine that is lost ends the session; whoever has the tokens opens another one.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from muster.errors import LinkDown, MusterError, ProtocolViolation, from_code
from muster.link.base import Channel, Connection, Endpoint, short_id
from muster.link.outbox import Outbox
from muster.private.attn_node import Letter
from muster.private.client import NewIds, PendingStep, PrivateClient
from muster.private.sentinels import Lie
from muster.spec.pool import NodeId
from muster.wire.frame import frame_bytes
from muster.wire.messages.base import Address
from muster.wire.messages.private import (
    ClosePrivate,
    HiddenRows,
    OpenPrivate,
    PrivateClosed,
    PrivateMachine,
    PrivateOpened,
    RoleFailed,
)
from muster.wire.ticket import proof

OPEN_S = 300.0
"""For a machine to load its layers."""
STEP_S = 120.0
DIAL_S = 10.0


@dataclass(frozen=True, slots=True)
class Seated:
    """A machine and its roles in a session."""

    address: Address
    roles: tuple[int, ...]
    secret: bytes = b""
    """Of the machine's own ticket; empty where the head of a pool has told it who comes."""


class MachineLost(LinkDown):
    """A machine of the session is gone, or did what it may not."""

    def __init__(self, node: NodeId, reason: str) -> None:
        super().__init__(f"Machine {short_id(node)} of the private session failed: {reason}")
        self.node = node


class PrivateSession:
    """Use `open_private`. One step at a time."""

    def __init__(self, client: PrivateClient) -> None:
        self.client = client
        self.sent = PrivateClosed(epoch=client.epoch, frames=0, payload_bytes=0, frame_bytes=0)
        self.closed: list[PrivateClosed] = []
        """What each machine has sent, once the session is closed."""
        self._outboxes: dict[int, Outbox] = {}
        """By role."""
        self._nodes: dict[int, NodeId] = {}
        """By role."""
        self._links: list[tuple[NodeId, Connection, Channel, Outbox]] = []
        self._reading: list[asyncio.Task[None]] = []
        self._pending: PendingStep | None = None
        self._done = asyncio.Event()
        self._error: MusterError | None = None

    @property
    def machines(self) -> list[NodeId]:
        return [node for node, _, _, _ in self._links]

    async def step(self, new: Sequence[NewIds]) -> PendingStep:
        """All layers for these tokens; the step has the logits. Raises `MachineLost` and other `MusterError`."""
        self._check()
        self._done.clear()
        pending, letters = await asyncio.to_thread(self.client.begin, new)
        self._pending = pending
        self._post(letters)
        try:
            async with asyncio.timeout(STEP_S):
                await self._done.wait()
        except TimeoutError:
            raise LinkDown(
                f"A private step took longer than {STEP_S:g} s; check the machines of the session."
            ) from None
        self._check()
        return pending

    def accused(self, lie: Lie) -> MachineLost:
        """Whoever has computed a sentinel wrongly, or of several that may have, the one with most of the roles."""
        roles = Counter(self._nodes[role] for role in lie.roles)
        node = max(roles, key=lambda one: (roles[one], one))
        others = [short_id(one) for one in sorted(roles) if one != node]
        doubt = f", or {' or '.join(others)} did; it is left out first" if others else ""
        return MachineLost(node, f"it computed {len(lie.positions)} states of a sentinel wrongly{doubt}")

    def forget(self, sequence: int) -> None:
        if self._error is None:
            self._post(self.client.forget(sequence))

    def abandon(self) -> None:
        """Nothing more is asked of any machine."""
        self._fail(LinkDown("The private session is not used any more; open another one."))

    async def close(self) -> None:
        for _, _, _, outbox in self._links:
            if self._error is None:
                outbox.put(ClosePrivate(epoch=self.client.epoch))
        if self._error is None:
            await asyncio.wait(self._reading, timeout=10.0)
        for task in self._reading:
            task.cancel()
        for _, connection, _, outbox in self._links:
            await outbox.close()
            await connection.close("the private session is over")

    async def seat(self, endpoint: Endpoint, seated: Seated, opened: OpenPrivate) -> None:
        """Dial a machine and give it its roles; returns when it is ready."""
        node = seated.address.node
        try:
            connection = await endpoint.dial(seated.address, DIAL_S)
            channel = await connection.open("data")
            await channel.send(opened)
            async with asyncio.timeout(OPEN_S):
                answer, _ = await channel.receive()
        except (LinkDown, ProtocolViolation, TimeoutError) as error:
            raise MachineLost(node, str(error) or "it did not get ready in time") from error
        if isinstance(answer, RoleFailed):
            raise from_code(answer.code, answer.reason)
        if not isinstance(answer, PrivateOpened):
            raise MachineLost(node, f"it answered with a {type(answer).__name__}")
        outbox = Outbox(channel, lambda error: self._fail(MachineLost(node, str(error))))
        self._links.append((node, connection, channel, outbox))
        self._outboxes.update(dict.fromkeys(seated.roles, outbox))
        self._nodes.update(dict.fromkeys(seated.roles, node))
        self._reading.append(asyncio.create_task(self._read(node, channel)))

    async def _read(self, node: NodeId, channel: Channel) -> None:
        try:
            while True:
                message, payload = await channel.receive()
                if isinstance(message, PrivateClosed):
                    self.closed.append(message)
                    return
                if isinstance(message, RoleFailed):
                    # A link between two others broke, or one of them refused what the other said. Whoever says so may
                    # lie; then the pool is one honest machine poorer, and nobody reads more.
                    accused = message.node in self.machines
                    reason = message.reason
                    self._fail(MachineLost(message.node, reason) if accused else from_code(message.code, reason))
                elif isinstance(message, HiddenRows) and self._pending is not None:
                    self._pending.take(message, payload)
                    if self._pending.done:
                        self._done.set()
                else:
                    raise ProtocolViolation(f"it sent a {type(message).__name__}")
        except (LinkDown, ProtocolViolation) as error:
            self._fail(MachineLost(node, str(error)))

    def _fail(self, error: MusterError) -> None:
        """A lost machine is worth more than what others say of it."""
        if self._error is None or (isinstance(error, MachineLost) and not isinstance(self._error, MachineLost)):
            self._error = error
        self._done.set()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _post(self, letters: Sequence[Letter]) -> None:
        frames, payloads, total = self.sent.frames, self.sent.payload_bytes, self.sent.frame_bytes
        for message, payload in letters:
            self._outboxes[message.receiver].put(message, payload)
            frames += 1
            payloads += memoryview(payload).nbytes
            total += frame_bytes(message, payload)
        self.sent = PrivateClosed(epoch=self.client.epoch, frames=frames, payload_bytes=payloads, frame_bytes=total)


async def open_private(
    endpoint: Endpoint, client: PrivateClient, seats: Sequence[Seated], config: bytes, dtype: str
) -> PrivateSession:
    """A session whose machines are all ready. Raises `MachineLost`, or what a machine says against it."""
    session = PrivateSession(client)
    orders = opening_orders(endpoint.node_id, client, seats, config, dtype)
    results = await asyncio.gather(
        *(session.seat(endpoint, each, order) for each, order in zip(seats, orders, strict=True)),
        return_exceptions=True,
    )
    for result in results:
        if isinstance(result, BaseException):
            session.abandon()
            await session.close()
            raise result
    return session


def opening_orders(
    me: NodeId, client: PrivateClient, seats: Sequence[Seated], config: bytes, dtype: str
) -> list[OpenPrivate]:
    """What each machine is told."""
    machines = tuple(PrivateMachine(each.address, each.roles) for each in seats)
    return [
        OpenPrivate(
            epoch=client.epoch,
            proof=proof(each.secret, me, each.address.node) if each.secret else b"",
            config=config,
            dtype=dtype,
            cluster=client.rule.cluster,
            comp_nodes=client.rule.comp_nodes,
            shards=client.rule.shards,
            machines=machines,
            max_tokens=client.max_tokens,
        )
        for each in seats
    ]
