"""From an assignment to roles of a private session that a client of the pool may use.

The head says who has which roles, and so does the client when it opens: if the two differ, one was deceived, and
nothing is computed. Rows go from machine to machine and never through the head, which would read them.
"""

import asyncio

import torch

from muster.errors import InvalidRequest, MusterError
from muster.model.weights import Weights
from muster.node.runners.base import Kind, Place, RunnerVitals, refuse
from muster.node.runners.base import Send as Reply
from muster.node.runners.private.accept import check_settings
from muster.node.runners.private.model import PrivateModel, private_model
from muster.node.runners.private.session import HostedSession
from muster.plan.private.memory import cache_rows, private_bytes
from muster.spec.model_shape import ModelShape
from muster.spec.pool import NodeId
from muster.spec.token_shards import CLIENT
from muster.wire.frame import Payload
from muster.wire.messages.base import EpochMessage
from muster.wire.messages.placement import Assign
from muster.wire.messages.private import (
    AttentionOrder,
    ClosePrivate,
    ForgetSequence,
    HiddenRows,
    OpenPrivate,
    PartialRows,
    PrivateMachine,
    PrivateOpened,
    ProjectedRows,
    RoleFailed,
)

ROLE_MESSAGES = (HiddenRows, AttentionOrder, ProjectedRows, PartialRows, ForgetSequence)


class PrivateRoles:
    """Implements `Runner`."""

    def __init__(self, assign: Assign, session: HostedSession, model: PrivateModel) -> None:
        self._assign, self._session, self._model = assign, session, model
        self._work = assign.pipeline.private
        self._is_open = False

    def receive(self, peer: NodeId, message: EpochMessage, payload: Payload, reply: Reply) -> None:
        if isinstance(message, OpenPrivate) and peer == self._work.client:
            self._open(message, reply)
        elif isinstance(message, ClosePrivate) and peer == self._work.client:
            reply(self._session.closed, b"")
        elif isinstance(message, ROLE_MESSAGES) and self._is_open and self._session.admits(peer):
            self._pass_on(peer, message, payload, reply)
        else:
            raise refuse(peer, message)

    def _pass_on(self, peer: NodeId, message: EpochMessage, payload: Payload, reply: Reply) -> None:
        assert isinstance(message, ROLE_MESSAGES)
        if peer == self._work.client:
            self._session.attach(reply, peer)
        try:
            self._session.receive(peer, message, payload)
        except MusterError as error:
            self._session.fail(error, peer)
            raise

    def _open(self, opened: OpenPrivate, reply: Reply) -> None:
        try:
            self._check(opened)
        except MusterError as error:
            reply(
                RoleFailed(epoch=opened.epoch, sender=CLIENT, receiver=CLIENT, code=error.code, reason=str(error)), b""
            )
            return
        self._is_open = True
        self._session.attach(reply, self._work.client)
        reply(PrivateOpened(epoch=opened.epoch), b"")

    def _check(self, opened: OpenPrivate) -> None:
        """Raises `InvalidRequest` where the client was told something else than this machine."""
        work = self._work
        mine = (work.cluster, work.comp_nodes, work.shards, work.max_tokens, self._assign.dtype)
        if mine != (opened.cluster, opened.comp_nodes, opened.shards, opened.max_tokens, opened.dtype):
            raise InvalidRequest("The head told client and machine of different sessions; ask for another session.")
        told = {each.address.node: each.roles for each in opened.machines}
        if told != dict(zip(self._assign.pipeline.nodes(), work.roles, strict=True)):
            raise InvalidRequest("The head told client and machine of different roles; leave that pool.")
        if opened.config != self._model.digest:
            raise InvalidRequest("This pool runs another model of that name; use the same files.", "model")

    def forget(self, reply: Reply) -> None:
        self._session.forget(reply)

    async def run(self) -> None:
        """All work is done in the session's threads."""
        await asyncio.Event().wait()

    def vitals(self) -> RunnerVitals:
        return RunnerVitals()

    async def close(self) -> None:
        await self._session.close()


async def build(place: Place) -> PrivateRoles:
    assign, work = place.assign, place.assign.pipeline.private

    session = HostedSession(assigned(assign), work.client, place.node, place.reach_directly)

    def needed_bytes(shape: ModelShape) -> int:
        return private_bytes(shape, work, work.roles[assign.index])

    def assemble(weights: Weights, shape: ModelShape, device: torch.device) -> PrivateModel:
        model = private_model(weights)
        session.build(model, cache_rows(work))
        return model

    try:
        model = await place.load_weights(needed_bytes, assemble)
    except BaseException:
        await session.close()
        raise
    place.admit({work.client})
    return PrivateRoles(assign, session, model)


def assigned(assign: Assign) -> OpenPrivate:
    """The session, as the head says it."""
    work = assign.pipeline.private
    addresses = {address.node: address for address in assign.peers}
    machines = tuple(
        PrivateMachine(addresses[node], roles) for node, roles in zip(assign.pipeline.nodes(), work.roles, strict=True)
    )
    return OpenPrivate(
        epoch=assign.epoch, proof=b"", config=b"", dtype=assign.dtype, cluster=work.cluster,
        comp_nodes=work.comp_nodes, shards=work.shards, machines=machines, max_tokens=work.max_tokens,
    )  # fmt: skip


PRIVATE = Kind(check_settings, build, verb="Computing in private for a client, with")
