"""The stages that this node holds, by epoch, and which message goes to which. Knows nothing of loading or leases."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from traceback import format_tb
from typing import Any

import structlog

from muster.errors import MachineTrouble, MusterError, ProtocolViolation
from muster.link.base import short_id
from muster.node.neighbours import Outbox
from muster.node.runtime import FollowerRuntime, HeadRuntime, Runtime, Send
from muster.node.state import Vitals
from muster.serve.engine import Engine
from muster.serve.follower import Follower
from muster.wire.frame import Payload
from muster.wire.messages.every import AnyMessage
from muster.wire.messages.generate import Cancel, Failed, Step, StepDone, Submit
from muster.wire.messages.membership import StageVitals
from muster.wire.messages.placement import Assign

log = structlog.get_logger()
CLOSE_S = 2.0
Lost = Callable[[int, str, str], None]
"""(epoch, peer, reason): a neighbour is lost, or broke the rules; `peer` is this node where its own stage broke."""


@dataclass(slots=True)
class _Held:
    assign: Assign
    runtime: HeadRuntime | FollowerRuntime
    next: Outbox | None
    task: "asyncio.Task[None]"


class Stages:
    def __init__(self, node: str, head: str, speed: float, lost: Lost) -> None:
        self._node = node
        self._head = head
        self._speed = speed
        self._lost = lost
        self._held: dict[int, _Held] = {}
        self._expected: dict[int, Assign] = {}
        self._ending: list[Runtime] = []
        """Dropped in the middle of a step that is not over yet."""
        self._past_steps = 0
        self._past_busy_s = 0.0

    def vitals(self, free_memory_bytes: int) -> Vitals:
        """What the next heartbeat says."""
        runtimes = [held.runtime for held in self._held.values()]
        at_work: list[Runtime] = [*runtimes, *self._ending]
        return Vitals(
            free_memory_bytes=free_memory_bytes,
            stages=tuple(StageVitals(epoch, held.runtime.active_requests) for epoch, held in self._held.items()),
            steps=self._past_steps + sum(runtime.steps for runtime in runtimes),
            computing_s=max((runtime.computing_s for runtime in at_work), default=0.0),
            busy_s=self._past_busy_s + sum(runtime.busy_s + runtime.computing_s for runtime in at_work),
        )

    def expect(self, assign: Assign) -> None:
        """A placement is on its way: its nodes may dial us from now on."""
        self._expected[assign.epoch] = assign

    def is_member(self, peer: str) -> bool:
        return peer == self._head or any(
            peer == stage.node for assign in self._expected.values() for stage in assign.stages
        )

    def start(self, assign: Assign, work: Engine[Any] | Follower[Any], next_box: Outbox | None) -> None:
        send: Send | None = next_box.put if next_box is not None else None
        runtime: HeadRuntime | FollowerRuntime
        if isinstance(work, Engine):
            runtime = HeadRuntime(assign.epoch, work, send, self._speed, assign.pipeline.work.num_microbatches)
        else:
            assert send is not None
            runtime = FollowerRuntime(assign.epoch, work, send, self._speed, assign.pipeline.work.num_microbatches)
        task = asyncio.create_task(self._run(assign, runtime))
        self._held[assign.epoch] = _Held(assign, runtime, next_box, task)

    async def drop(self, epoch: int) -> None:
        """Returns when nothing of the stage runs any more; where a step hangs, that is never."""
        self._expected.pop(epoch, None)
        held = self._held.pop(epoch, None)
        if held is None:
            return
        self._past_steps += held.runtime.steps
        held.task.cancel()
        await asyncio.gather(held.task, return_exceptions=True)
        held.runtime.close()
        if held.next is not None:
            await held.next.close()
        self._ending.append(held.runtime)
        await held.runtime.ended()
        self._ending.remove(held.runtime)
        self._past_busy_s += held.runtime.busy_s

    async def close(self) -> None:
        """Drop everything, and wait a moment for steps under way."""
        drops = [asyncio.create_task(self.drop(epoch)) for epoch in list(self._held)]
        if drops:
            _, hanging = await asyncio.wait(drops, timeout=CLOSE_S)
            for drop in hanging:
                drop.cancel()
            await asyncio.gather(*drops, return_exceptions=True)

    def forget_session(self, reply: Send) -> None:
        for held in self._held.values():
            if isinstance(held.runtime, HeadRuntime):
                held.runtime.forget_session(reply)

    def receive(self, peer: str, message: AnyMessage, payload: Payload, reply: Send) -> None:
        """A message on a data channel. Raises `ProtocolViolation` where this peer may not say this."""
        match message:
            case Submit():
                self._require(peer == self._head, peer, message)
                self._submit(message, reply)
            case Cancel():
                self._require(peer == self._head, peer, message)
                for held in self._held.values():
                    if isinstance(held.runtime, HeadRuntime):
                        held.runtime.cancel(message.request_id)
            case Step():
                held_stage = self._held.get(message.epoch)
                if held_stage is None:
                    return  # of an epoch that is over, or not yet loaded here: the session resubmits
                previous = held_stage.assign.stages[held_stage.assign.index - 1].node
                runtime = held_stage.runtime
                self._require(isinstance(runtime, FollowerRuntime) and peer == previous, peer, message)
                assert isinstance(runtime, FollowerRuntime)
                runtime.step(message, payload)
            case StepDone():
                held_stage = self._held.get(message.epoch)
                if held_stage is None:
                    return
                runtime = held_stage.runtime
                last = held_stage.assign.stages[-1].node
                self._require(isinstance(runtime, HeadRuntime) and peer == last, peer, message)
                assert isinstance(runtime, HeadRuntime)
                runtime.done(message)
            case _:
                self._require(False, peer, message)

    def _submit(self, message: Submit, reply: Send) -> None:
        held = self._held.get(message.epoch)
        if held is None or not isinstance(held.runtime, HeadRuntime):
            reason = f"Node {short_id(self._node)} does not hold the first stage of placement {message.epoch}."
            reply(
                Failed(
                    epoch=message.epoch,
                    request_id=message.request.id,
                    code="pool_unavailable",
                    reason=reason,
                    retry=True,
                ),
                b"",
            )
            return
        held.runtime.submit(message.request, reply)

    @staticmethod
    def _require(allowed: bool, peer: str, message: AnyMessage) -> None:
        if not allowed:
            kind = type(message).__name__
            raise ProtocolViolation(f"Node {short_id(peer)} sent a {kind}, which its place in the pipeline forbids.")

    async def _run(self, assign: Assign, runtime: HeadRuntime | FollowerRuntime) -> None:
        epoch = assign.epoch
        try:
            await runtime.run()
        except Exception as error:
            # Whatever broke the stage, its requests can go on elsewhere: nothing here is worth keeping.
            # The traceback without its local variables: those hold people's prompts.
            log.error("stage.broke", epoch=epoch, error=repr(error), where="".join(format_tb(error.__traceback__)))
            trouble = error if isinstance(error, MusterError) else MachineTrouble(f"A stage broke ({error!r}).")
            if isinstance(runtime, HeadRuntime):
                runtime.give_up(trouble)
            # Only the stage before (of the first: the last) hands us anything that can violate the protocol; to report
            # ourselves would let one that cheats have its neighbours put into quarantine.
            violated = isinstance(error, ProtocolViolation)
            self._lost(epoch, assign.stages[assign.index - 1].node if violated else self._node, str(trouble))
