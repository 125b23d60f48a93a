"""Who may open a private session on this machine, and the channels of all that are open. Knows nothing of roles.

A client shows that it holds this machine's ticket. Machines of a session may dial in because the client named them.
"""

import asyncio

import structlog

from muster.errors import InvalidRequest, LimitReached, LinkDown, MusterError, NotAllowed, ProtocolViolation
from muster.link.base import Channel, Connection, Endpoint, short_id
from muster.link.serving import serve_channels
from muster.link.tasks import Tasks
from muster.model.shape import torch_dtype
from muster.node.private.model import PrivateModel
from muster.node.private.session import HostedSession
from muster.spec.pool import NodeId
from muster.spec.token_shards import CLIENT, TokenShards
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
            await self._listen(channel, peer)

        await serve_channels(connection, serve, self._tasks, MAX_CHANNELS)
        for epoch, session in list(self._sessions.items()):
            if session.client == peer:
                await self._close(epoch)

    async def _listen(self, channel: Channel, peer: NodeId) -> None:
        try:
            while True:
                message, payload = await channel.receive()
                if isinstance(message, OpenPrivate):
                    await self._open(message, channel, peer)
                elif isinstance(message, ClosePrivate):
                    session = self._session(message.epoch, peer)
                    await self._close(message.epoch)
                    await channel.send(session.closed)
                elif isinstance(message, HiddenRows | AttentionOrder | ProjectedRows | PartialRows | ForgetSequence):
                    session = self._session(message.epoch, peer)
                    session.attach(channel, peer)
                    self._receive(session, peer, message, payload)
                else:
                    raise ProtocolViolation(f"Node {short_id(peer)} sent a {type(message).__name__} to a private node.")
        except (LinkDown, ProtocolViolation) as error:
            if isinstance(error, ProtocolViolation):
                log.warning("private.refused", peer=short_id(peer), reason=str(error))
        finally:
            await channel.close()

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

    async def _open(self, opened: OpenPrivate, channel: Channel, peer: NodeId) -> None:
        try:
            self._check(opened, peer)
            session = HostedSession(opened, peer, self._endpoint, self._listen_beside)
            self._sessions[opened.epoch] = session
            session.attach(channel, peer)
            await asyncio.to_thread(session.build, self._model)
        except MusterError as error:
            if opened.epoch in self._sessions and self._sessions[opened.epoch].client == peer:
                await self._close(opened.epoch)
            await channel.send(
                RoleFailed(epoch=opened.epoch, sender=CLIENT, receiver=CLIENT, code=error.code, reason=str(error))
            )
            return
        await channel.send(PrivateOpened(epoch=opened.epoch))

    def _listen_beside(self, channel: Channel, peer: NodeId) -> None:
        self._tasks.spawn(self._listen(channel, peer))

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
