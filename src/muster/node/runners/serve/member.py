"""A member of an island behind the first: it runs the same steps on its part of the layers, and the ring knows it not.

Everything here comes from the first member, on another machine, so it is checked before the cache sees it.
"""

import asyncio
from collections import deque
from functools import partial
from typing import Any

import torch
from torch import Tensor

from muster.compress.registry import PLAIN
from muster.errors import LinkDown, ProtocolViolation
from muster.model.stage import Stage
from muster.node.island.gathering import Island
from muster.node.runners.base import Cheated, RunnerVitals, Send, refuse
from muster.node.runners.serve.ring import MAX_HIDDEN_BYTES, WaitingSteps
from muster.node.runners.thread import ComputeThread
from muster.serve.accept import check_hidden, check_step
from muster.serve.batch import make_batch
from muster.serve.options import most_in_flight
from muster.spec.plan import ServeSettings
from muster.spec.pool import NodeId
from muster.wire.frame import Payload
from muster.wire.messages.base import EpochMessage
from muster.wire.messages.generate import Step
from muster.wire.messages.island import IslandNote, IslandStep


class MemberStage:
    """Implements `Runner`."""

    def __init__(self, island: Island, stage: Stage, cache: Any, work: ServeSettings, thread: ComputeThread) -> None:
        self._island, self._stage, self._cache, self._thread = island, stage, cache, thread
        self._first = island.members[0]
        self._prefill_tokens = work.prefill_tokens
        self._inbox: deque[tuple[IslandStep, Payload]] = deque()
        self._waiting = WaitingSteps(most_in_flight(work) + 1)
        self._next = 0
        self._wake = asyncio.Event()

    def receive(self, peer: NodeId, message: EpochMessage, payload: Payload, reply: Send) -> None:
        match message:
            case IslandNote():
                self._island.receive(peer, message)
            case IslandStep() if peer == self._first:
                self._waiting.add("steps")
                self._inbox.append((message, payload))
                self._wake.set()
            case _:
                raise refuse(peer, message)

    def forget(self, reply: Send) -> None:
        """No session talks to a member."""

    async def run(self) -> None:
        try:
            await self._island.gather()
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._inbox:
                    step, payload = self._inbox.popleft()
                    self._waiting.take()
                    await self._thread.compute(partial(self._turn, step, payload))
        except LinkDown as error:
            raise Cheated(*self._island.lost(error)) from error
        except ProtocolViolation as error:
            raise Cheated(self._first, str(error)) from error
        finally:
            self._island.close()  # a thread may be waiting for other members, whatever becomes of `close`

    def vitals(self) -> RunnerVitals:
        return self._thread.vitals()

    async def close(self) -> None:
        self._island.close()
        await self._thread.close()

    def _turn(self, message: IslandStep, payload: Payload) -> None:
        if message.sequence != self._next:
            raise ProtocolViolation("The first member of the island left out a step, or sent one twice; update it.")
        self._next += 1
        step = Step(epoch=message.epoch, sequence=message.sequence, rows=message.rows, copies=message.copies)
        check_step(step, self._cache, self._prefill_tokens)
        x = self._input(message, step, payload).to(self._stage.device)
        places = self._cache.enter(step.rows, step.copies)
        batch = make_batch(step.rows, self._cache.page_size, self._stage.device, places)
        self._stage.run(batch, self._cache, x, group=self._island.group)

    def _input(self, message: IslandStep, step: Step, payload: Payload) -> Tensor:
        if self._stage.is_first:
            count = sum(row.length for row in step.rows)
            tokens, size = message.tokens, self._stage.vocab_size
            if len(tokens) != count or not all(0 <= token < size for token in tokens):
                raise ProtocolViolation("The first member of the island sent tokens that are none of this model.")
            return torch.tensor(tokens, dtype=torch.int64)
        if message.hidden is None:
            raise ProtocolViolation("A step came without a hidden state; the sender must put one in its payload.")
        hidden_TH = PLAIN.decode(message.hidden, payload, MAX_HIDDEN_BYTES)
        check_hidden(step, hidden_TH, self._stage.hidden_size, self._stage.dtype)
        return hidden_TH
