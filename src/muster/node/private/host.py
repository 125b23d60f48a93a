"""Who may open a private session on this machine, and the channels of all that are open. Knows nothing of roles.

A client shows that it holds this machine's ticket. Machines of a session may dial in because the client named them.
"""

import asyncio
from collections.abc import Callable

import structlog

from muster.errors import InvalidRequest, LimitReached, LinkDown, MusterError, NotAllowed, ProtocolViolation
from muster.link.base import Channel, Connection, Endpoint, short_id
from muster.link.outbox import Outbox
from muster.link.serving import serve_channels
from muster.link.tasks import Tasks
from muster.model.shape import torch_dtype
from muster.node.runners.private.model import PrivateModel
from muster.node.runners.private.session import HostedSession, Send
from muster.spec.pool import NodeId
from muster.spec.token_shards import CLIENT, TokenShards
from muster.wire.messages.base import Address
from muster.wire.messages.private import (
    AttentionOrder,
    ClosePrivate,
    ForgetSequence,
    HiddenRows,
    OpenPrivate,
    PartialRows,
    PrivateMessage,
    PrivateOpened,
    ProjectedRows,
    RoleFailed,
)
from muster.wire.ticket import proof_holds

log = structlog.get_logger()
DIAL_S = 10.0
MAX_SESSIONS = 4
MAX_CHANNELS = 8
"""Of one connection."""
MAX_ROLES = 4096


class PrivateHost:
    def __init__(self, endpoint: Endpoint, model: PrivateModel, secret: bytes) -> None:
        """`secret` is that of this machine's ticket."""
        self._endpoint, self._model, self._secret = endpoint, model, secret
        self._sessions: dict[int, HostedSession] = {}
        """By epoch."""
        self._dialled: dict[int, list[Outbox]] = {}
        """For the sake of a session."""
        self._tasks = Tasks()

    async def run(self) -> None:
        """Until cancelled."""
        self._tasks.spawn(self._accept())
        try:
            await self._tasks.wait()
        finally:
            await self._tasks.cancel()
            for session in list(self._sessions.values()):
                await session.close()

    async def _accept(self) -> None:
        while True:
            connection = await self._endpoint.accept()
            self._tasks.spawn(self._serve(connection))

    async def _serve(self, connection: Connection) -> None:
        peer = connection.peer

        async def serve(name: str, channel: Channel) -> None:
            await self._listen(Outbox(channel, lambda error: self._lost(peer, error)), peer)

        await serve_channels(connection, serve, self._tasks, MAX_CHANNELS)
        for epoch, session in list(self._sessions.items()):
            if session.client == peer:
                await self._close(epoch)

    async def _listen(self, outbox: Outbox, peer: NodeId) -> None:
        try:
            while True:
                message, payload = await outbox.channel.receive()
                if isinstance(message, OpenPrivate):
                    await self._open(message, outbox.put, peer)
                elif isinstance(message, ClosePrivate):
                    session = self._session(message.epoch, peer)
                    await self._close(message.epoch)
                    outbox.put(session.closed)
                elif isinstance(message, HiddenRows | AttentionOrder | ProjectedRows | PartialRows | ForgetSequence):
                    session = self._session(message.epoch, peer)
                    session.attach(outbox.put, peer)
                    self._receive(session, peer, message, payload)
                else:
                    raise ProtocolViolation(f"Node {short_id(peer)} sent a {type(message).__name__} to a private node.")
        except (LinkDown, ProtocolViolation) as error:
            if isinstance(error, ProtocolViolation):
                log.warning("private.refused", peer=short_id(peer), reason=str(error))
        finally:
            for session in self._sessions.values():
                session.forget(outbox.put)
            outbox.end()
            await outbox.ended()
            await outbox.close()

    def _lost(self, peer: NodeId, error: MusterError) -> None:
        for session in list(self._sessions.values()):
            if session.admits(peer):
                session.lost(peer, error)

    async def _reach(self, epoch: int, address: Address, lost: Callable[[MusterError], None]) -> Send:
        connection = await self._endpoint.dial(address, DIAL_S)
        outbox = Outbox(await connection.open("data"), lost)
        self._dialled.setdefault(epoch, []).append(outbox)
        self._tasks.spawn(self._listen(outbox, address.node))
        return outbox.put

    def _receive(self, session: HostedSession, peer: NodeId, message: PrivateMessage, payload: memoryview) -> None:
        try:
            session.receive(peer, message, payload)
        except ProtocolViolation as error:
            session.fail(error, peer)
            raise

    def _session(self, epoch: int, peer: NodeId) -> HostedSession:
        session = self._sessions.get(epoch)
        if session is None or not session.admits(peer):
            raise ProtocolViolation(f"Node {short_id(peer)} has no private session {epoch} here; open one first.")
        return session

    async def _open(self, opened: OpenPrivate, send: Send, peer: NodeId) -> None:
        try:
            self._check(opened, peer)
            epoch = opened.epoch
            session = HostedSession(
                opened, peer, self._endpoint.node_id, lambda address, lost: self._reach(epoch, address, lost)
            )
            self._sessions[opened.epoch] = session
            session.attach(send, peer)
            await asyncio.to_thread(session.build, self._model)
        except MusterError as error:
            if opened.epoch in self._sessions and self._sessions[opened.epoch].client == peer:
                await self._close(opened.epoch)
            send(
                RoleFailed(epoch=opened.epoch, sender=CLIENT, receiver=CLIENT, code=error.code, reason=str(error)), b""
            )
            return
        send(PrivateOpened(epoch=opened.epoch), b"")

    def _check(self, opened: OpenPrivate, peer: NodeId) -> None:
        """Raises `MusterError`."""
        me = self._endpoint.node_id
        if not proof_holds(opened.proof, self._secret, peer, me):
            raise NotAllowed("The ticket is not this machine's; ask whoever runs it for the line that it printed.")
        if opened.epoch in self._sessions or len(self._sessions) >= MAX_SESSIONS:
            raise LimitReached(f"This machine holds {len(self._sessions)} private sessions already; try again later.")
        if opened.config != self._model.digest:
            raise InvalidRequest("This machine runs another model; name the same one on all machines.", "model")
        torch_dtype(opened.dtype)
        if min(opened.cluster, opened.comp_nodes, opened.shards) < 1 or opened.max_tokens < 1:
            raise InvalidRequest("The session's sizes make no sense; each must be at least 1.")
        if opened.comp_nodes + opened.shards**2 > MAX_ROLES or opened.max_tokens > self._model.network.max_context:
            raise InvalidRequest(
                f"A private session has at most {MAX_ROLES} roles and {self._model.network.max_context} tokens here."
            )
        roles = TokenShards(opened.cluster, opened.comp_nodes, opened.shards).roles
        given = sorted(role for each in opened.machines for role in each.roles)
        if given != list(roles) or me not in {each.address.node for each in opened.machines}:
            raise InvalidRequest("The session's roles are not shared out one by one; each needs one machine.")

    async def _close(self, epoch: int) -> None:
        session = self._sessions.pop(epoch, None)
        if session is not None:
            await session.close()
        for outbox in self._dialled.pop(epoch, ()):
            await outbox.close()
