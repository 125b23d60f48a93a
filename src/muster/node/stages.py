"""The stages that this node holds, by epoch, and which message goes to which. Knows no message and no kind of work.

Epochs are unique over all jobs, so an epoch alone says which stage is meant.
"""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from traceback import format_tb

import structlog

from muster.errors import MachineTrouble, MusterError
from muster.node.events import Vitals
from muster.node.place import Lost, NodePlace
from muster.node.runners.base import Cheated, Runner, Send, refuse
from muster.spec.pool import NodeId
from muster.wire.frame import Payload
from muster.wire.messages.base import EpochMessage
from muster.wire.messages.every import AnyMessage
from muster.wire.messages.generate import EpochUnknown
from muster.wire.messages.membership import StageVitals
from muster.wire.messages.placement import Assign

log = structlog.get_logger()
CLOSE_S = 2.0


@dataclass(slots=True)
class _Held:
    place: NodePlace
    runner: Runner
    task: "asyncio.Task[None]"


class Stages:
    def __init__(self, node: NodeId, head: NodeId, lost: Lost) -> None:
        self._node = node
        self._head = head
        self._lost = lost
        self._held: dict[int, _Held] = {}
        self._expected: dict[int, Assign] = {}
        self._admitted: dict[int, frozenset[NodeId]] = {}
        self._ending: list[Runner] = []
        """Dropped, perhaps in the middle of a step that is not over yet."""
        self._past_steps = 0
        self._past_busy_s = 0.0

    def vitals(self, free_memory_bytes: int) -> Vitals:
        """What the next heartbeat says."""
        held = {epoch: held.runner.vitals() for epoch, held in self._held.items()}
        at_work = [*held.values(), *(runner.vitals() for runner in self._ending)]
        return Vitals(
            free_memory_bytes=free_memory_bytes,
            stages=tuple(
                StageVitals(
                    epoch, vitals.active_requests, vitals.received, vitals.sent, vitals.guesses, vitals.in_flight
                )
                for epoch, vitals in held.items()
            ),
            steps=self._past_steps + sum(vitals.steps for vitals in at_work),
            computing_s=max((vitals.computing_s for vitals in at_work), default=0.0),
            busy_s=self._past_busy_s + sum(vitals.busy_s + vitals.computing_s for vitals in at_work),
        )

    def expect(self, assign: Assign) -> None:
        """A placement is on its way: its nodes may dial us from now on."""
        self._expected[assign.epoch] = assign

    def admit(self, epoch: int, nodes: Collection[NodeId]) -> None:
        """These may dial us, too, as long as that placement is here."""
        if epoch in self._expected:
            self._admitted[epoch] = frozenset(nodes)

    def is_member(self, peer: NodeId) -> bool:
        if peer == self._head or any(peer in nodes for nodes in self._admitted.values()):
            return True
        return any(peer in stage.members for assign in self._expected.values() for stage in assign.stages)

    def start(self, place: NodePlace, runner: Runner) -> None:
        """From now on the stage gets its messages."""
        epoch = place.assign.epoch
        self._held[epoch] = _Held(place, runner, asyncio.create_task(self._run(epoch, runner)))

    async def drop(self, epoch: int) -> None:
        """Returns when nothing of the stage runs any more; where a step hangs, that is never."""
        self._expected.pop(epoch, None)
        self._admitted.pop(epoch, None)
        held = self._held.pop(epoch, None)
        if held is None:
            return
        self._ending.append(held.runner)
        held.task.cancel()
        try:
            await asyncio.gather(held.task, return_exceptions=True)
        finally:
            await held.place.close()  # also where the node leaves meanwhile: nobody else knows of its channels
        await held.runner.close()
        self._ending.remove(held.runner)
        past = held.runner.vitals()
        self._past_steps += past.steps
        self._past_busy_s += past.busy_s

    async def close(self) -> None:
        """Drop everything, and wait a moment for steps under way."""
        drops = [asyncio.create_task(self.drop(epoch)) for epoch in list(self._held)]
        if drops:
            _, hanging = await asyncio.wait(drops, timeout=CLOSE_S)
            for drop in hanging:
                drop.cancel()
            await asyncio.gather(*drops, return_exceptions=True)

    def forget(self, reply: Send) -> None:
        """The channel behind `reply` is gone."""
        for held in self._held.values():
            held.runner.forget(reply)

    def receive(self, peer: NodeId, message: AnyMessage, payload: Payload, reply: Send) -> None:
        """A message on a data channel. Raises `ProtocolViolation` where this peer may not say this."""
        if not isinstance(message, EpochMessage):
            raise refuse(peer, message)
        held = self._held.get(message.epoch)
        if held is not None:
            held.runner.receive(peer, message, payload, reply)
        elif peer == self._head:
            # Whoever waits for answers must hear of it; a neighbour hears from the broker what became of the placement.
            reply(EpochUnknown(epoch=message.epoch), b"")

    async def _run(self, epoch: int, runner: Runner) -> None:
        try:
            await runner.run()
        except Exception as error:
            # Whatever broke the stage, its work can go on elsewhere: nothing here is worth keeping.
            # The traceback without its local variables: those hold people's prompts.
            log.error("stage.broke", epoch=epoch, error=repr(error), where="".join(format_tb(error.__traceback__)))
            trouble = error if isinstance(error, MusterError) else MachineTrouble(f"A stage broke ({error!r}).")
            # To report ourselves for what another sent would let one that cheats have its neighbours put into
            # quarantine.
            self._lost(epoch, error.peer if isinstance(error, Cheated) else self._node, str(trouble))
