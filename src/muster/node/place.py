"""What this node gives to one placement: its layers in memory and channels to its neighbours. Knows no kind of work.

`Place` says what of this a kind of work gets to see.
"""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from msgspec import structs

from muster.compress.registry import Coder, make_coder
from muster.errors import LinkDown, MusterError, ProtocolViolation
from muster.link.base import Channel, Connection, short_id
from muster.link.identity import Identity
from muster.model.stage import Stage
from muster.model.weights import Weights
from muster.node.hop import NextHop
from muster.node.loading import Report, StageLoader, Wish
from muster.node.neighbours import Neighbours
from muster.node.probes import greet
from muster.node.runners.base import Again, Send
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Draft
from muster.spec.plan import Stage as Part
from muster.spec.pool import NodeId
from muster.wire.messages.base import Address
from muster.wire.messages.every import AnyMessage
from muster.wire.messages.placement import Assign

Result = TypeVar("Result")
HEAD_GONE = "The head is gone; its next placement will ask again."
Lost = Callable[[int, NodeId, str], None]
"""(epoch, peer, reason): a neighbour is lost, or broke the rules; `peer` is this node where its own stage broke."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all placements on this node share."""

    node: NodeId
    identity: Identity | None
    head: NodeId
    speed: Callable[[], float]
    loader: StageLoader
    neighbours: Neighbours
    tell: Callable[[AnyMessage], None]
    """Says something to the head."""
    lost: Lost
    admit: Callable[[int, Collection[NodeId]], None]
    """(epoch, nodes): these may dial this node for the sake of that placement."""
    reached: Callable[[Address, float], None]
    """Told of every neighbour that answered, and the round trip in seconds."""


class NodePlace:
    """Implements `Place`."""

    def __init__(self, assign: Assign, connection: Connection | None, surroundings: Surroundings) -> None:
        """`connection` leads to the head; None while there is none."""
        self.assign = assign
        self.node, self.head = surroundings.node, surroundings.head
        self.identity = surroundings.identity
        self._connection = connection
        self._around = surroundings
        self._hops: list[NextHop] = []

    def tell(self, message: AnyMessage) -> None:
        self._around.tell(message)

    def speed(self) -> float:
        return self._around.speed()

    async def load(
        self,
        needed_bytes: Callable[[ModelShape], int],
        assemble: Callable[[Stage, ModelShape], Result],
        host_bytes: Callable[[ModelShape], int] = lambda shape: 0,
    ) -> Result:
        rank = self.assign.rank(self.node)
        return await self._load(Wish(self.assign, needed_bytes, host_bytes, assemble, rank), self._around.tell)

    async def load_weights(
        self, needed_bytes: Callable[[ModelShape], int], build: Callable[[Weights, ModelShape, torch.device], Result]
    ) -> Result:
        if self._connection is None:
            raise LinkDown(HEAD_GONE)
        wish = Wish(self.assign, needed_bytes, lambda shape: 0, lambda stage, shape: None)
        return await self._around.loader.load_weights(wish, build, self._connection, self._around.tell)

    async def load_draft(
        self, draft: Draft, needed_bytes: Callable[[ModelShape], int], assemble: Callable[[Stage, ModelShape], Result]
    ) -> Result:
        whole = replace(self.assign.pipeline, stages=(Part(self.node, 0, draft.num_layers),), codecs=())
        assign = structs.replace(self.assign, model=draft.model, manifest=draft.manifest, index=0, pipeline=whole)
        # The head waits for the layers: how far the draft has come would be taken for that.
        return await self._load(Wish(assign, needed_bytes, lambda shape: 0, assemble), lambda progress: None)

    async def _load(self, wish: Wish[Result], report: Report) -> Result:
        if self._connection is None:
            raise LinkDown(HEAD_GONE)
        return await self._around.loader.load(wish, self._connection, report)

    def vocabulary(self) -> bytes:
        return self._around.loader.vocabulary(self.assign.manifest)

    async def reach(self, node: NodeId, again: Again | None = None) -> Send:
        address = next((address for address in self.assign.peers if address.node == node), None)
        if address is None:
            raise ProtocolViolation(f"The head named no address for node {short_id(node)}; its books are wrong.")
        epoch, lost = self.assign.epoch, self._around.lost
        return await self._reached(address, again, lambda error: lost(epoch, node, str(error)))

    async def reach_beside(self, address: Address, lost: Callable[[MusterError], None]) -> Send:
        return await self._reached(address, None, lost)

    async def reach_directly(self, address: Address, lost: Callable[[MusterError], None]) -> Send:
        return await self._reached(address, None, lost, relayed=False)

    def admit(self, nodes: Collection[NodeId]) -> None:
        self._around.admit(self.assign.epoch, nodes)

    async def _reached(
        self, address: Address, again: Again | None, lost: Callable[[MusterError], None], relayed: bool = True
    ) -> Send:
        hop = NextHop(lambda: self._channel(address, relayed), lost, again)
        self._hops.append(hop)
        await hop.open()
        return hop.send

    async def _channel(self, address: Address, relayed: bool) -> Channel:
        """One that works."""
        channel = await self._around.neighbours.open(address, "data", relayed)
        self._around.reached(address, await greet(channel, address.node))
        return channel

    def coder(self, source: NodeId, target: NodeId) -> Coder:
        return make_coder(self.assign.pipeline.codec(source, target))

    async def close(self) -> None:
        """Hang up on the neighbours. The layers stay until the loader is told."""
        hops, self._hops = self._hops, []
        for hop in hops:
            hop.stop()  # first of all, so that it holds even where the rest is cut short
        await asyncio.gather(*(hop.close() for hop in hops))
