"""The first member of a stage that several hold: they become a group before it works, and are let go with it.

Wraps the runner that it would be alone, which notices nothing.
"""

from muster.errors import LinkDown
from muster.node.island.gathering import Island
from muster.node.runners.base import Cheated, Runner, RunnerVitals, Send
from muster.spec.pool import NodeId
from muster.wire.frame import Payload
from muster.wire.messages.base import EpochMessage
from muster.wire.messages.island import IslandNote


class Leading:
    """Implements `Runner`."""

    def __init__(self, inner: Runner, island: Island) -> None:
        self._inner, self._island = inner, island

    def receive(self, peer: NodeId, message: EpochMessage, payload: Payload, reply: Send) -> None:
        if isinstance(message, IslandNote):
            self._island.receive(peer, message)
        else:
            self._inner.receive(peer, message, payload, reply)

    def forget(self, reply: Send) -> None:
        self._inner.forget(reply)

    async def run(self) -> None:
        try:
            await self._island.gather()
            await self._inner.run()
        except LinkDown as error:
            raise Cheated(*self._island.lost(error)) from error
        finally:
            self._island.close()  # a thread may be waiting for other members, whatever becomes of `close`

    def vitals(self) -> RunnerVitals:
        return self._inner.vitals()

    async def close(self) -> None:
        self._island.close()
        await self._inner.close()
