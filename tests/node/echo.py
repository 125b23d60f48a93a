"""A kind of work that no pool does: every stage adds its number to a tensor and hands it on, until it is home again.

It computes, talks to its neighbours and answers the head as a real kind would, and nothing in `muster` knows it.
"""

import asyncio
from collections import deque
from collections.abc import Callable

import torch

from muster.compress.registry import make_coder
from muster.errors import ProtocolViolation
from muster.node.runners.base import Cheated, Kind, Kinds, Place, RunnerVitals, Send, refuse
from muster.node.runners.serve.kind import SERVE
from muster.node.runners.thread import ComputeThread
from muster.spec.plan import ServeSettings, TrainSettings
from muster.wire.frame import Payload
from muster.wire.messages.base import EpochMessage
from muster.wire.messages.generate import Step

MAX_BYTES = 2**20


class Echo:
    """Implements `Runner`. A message is a `Step` without rows; its number tells one tensor from another."""

    def __init__(self, place: Place, send: Send) -> None:
        assign = place.assign
        nodes = assign.pipeline.nodes()
        self.index, self.epoch = assign.index, assign.epoch
        self.place, self.closed = place, False
        self._head, self._previous = place.head, nodes[assign.index - 1]
        self._send = send
        self._decode = place.coder(self._previous, place.node).decode
        self._encode = place.coder(place.node, nodes[(assign.index + 1) % len(nodes)]).encode
        self._thread = ComputeThread(assign.epoch, place.speed)
        self._inbox: deque[tuple[Step, Payload]] = deque()
        self._replies: dict[int, Send] = {}
        self._wake = asyncio.Event()

    def receive(self, peer: str, message: EpochMessage, payload: Payload, reply: Send) -> None:
        match message:
            case Step(sequence=sequence) if peer == self._head and self.index == 0:
                self._replies[sequence] = reply
                self._inbox.append((message, payload))
            case Step(sequence=sequence) if peer == self._previous and self.index == 0:
                if (asked := self._replies.pop(sequence, None)) is not None:
                    asked(message, payload)
            case Step() if peer == self._previous:
                self._inbox.append((message, payload))
            case _:
                raise refuse(peer, message)
        self._wake.set()

    def forget(self, reply: Send) -> None:
        self._replies = {sequence: asked for sequence, asked in self._replies.items() if asked != reply}

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._inbox:
                step, payload = self._inbox.popleft()
                self._send(*await self._thread.compute(self._turn(step, payload)))

    def _turn(self, step: Step, payload: Payload) -> Callable[[], tuple[Step, Payload]]:
        def work() -> tuple[Step, Payload]:
            if step.hidden is None:
                raise Cheated(self._previous, "A tensor came without a header.")
            header, packed = self._encode(self._decode(step.hidden, payload, MAX_BYTES) + self.index + 1)
            return Step(epoch=self.epoch, sequence=step.sequence, rows=(), hidden=header), packed

        return work

    def vitals(self) -> RunnerVitals:
        return self._thread.vitals(len(self._replies))

    async def close(self) -> None:
        await self._thread.close()
        self.closed = True


def echo_kind(built: list[Echo]) -> Kind:
    """`built` is filled with its runners."""

    async def build(place: Place) -> Echo:
        nodes = place.assign.pipeline.nodes()
        echo = Echo(place, await place.reach(nodes[(place.assign.index + 1) % len(nodes)]))
        built.append(echo)
        return echo

    return Kind(check, build)


def echo_kinds(built: list[Echo]) -> Kinds:
    """Of a node that echoes where it is told to train, and serves as every node does."""
    return Kinds({ServeSettings: SERVE, TrainSettings: echo_kind(built)})


def check(work: TrainSettings) -> None:
    if work.microbatch <= 0:
        raise ProtocolViolation("Nothing is to be echoed; ask for one tensor at least.")


def question(epoch: int, sequence: int, tensor: torch.Tensor) -> tuple[Step, Payload]:
    header, payload = make_coder(None).encode(tensor)
    return Step(epoch=epoch, sequence=sequence, rows=(), hidden=header), payload


def answer(step: Step, payload: Payload) -> torch.Tensor:
    assert step.hidden is not None
    return make_coder(None).decode(step.hidden, payload, MAX_BYTES)
