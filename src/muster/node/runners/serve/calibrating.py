"""Before a ring with packed links serves: the calibration text goes through it. Wraps the stage that serves after it.

    broker ── CheckCodecs ──> first ── Calibrate ──> ... ── Calibrate ──> last
    broker <─ CodecsChecked ─ first <────────── Calibrated ────────────── last

Nothing is submitted before the broker has its answer, so the compute thread and the cache are free for this. What comes
later is refused: it would overwrite what requests have cached.
"""

import asyncio
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch

from muster.compress.registry import PLAIN, Coder
from muster.errors import ProtocolViolation
from muster.model.batch import Batch
from muster.node.runners.base import Cheated, Runner, RunnerVitals, Send, refuse
from muster.node.runners.serve.ring import MAX_HIDDEN_BYTES, RingPlace, WaitingSteps
from muster.node.runners.thread import ComputeThread
from muster.serve.accept import check_hidden, check_step
from muster.serve.batch import make_batch
from muster.serve.calibration import Comparison, Piece, pieces
from muster.serve.stage import RunsLayers
from muster.spec.pool import NodeId
from muster.wire.frame import Payload
from muster.wire.messages.base import EpochMessage
from muster.wire.messages.calibrate import MAX_POSITIONS, Calibrate, Calibrated, CheckCodecs, CodecsChecked
from muster.wire.messages.every import AnyMessage
from muster.wire.messages.generate import Row, Step

MAX_DIVERGENCE = 1e9
"""In nats, of one piece; more is no result of arithmetic."""


@dataclass(frozen=True, slots=True)
class StageParts:
    """What a stage computes with."""

    stage: RunsLayers[Any]
    cache: Any
    num_pages: int
    """Of the cache, that are in the device's memory at once."""
    prefill_tokens: int
    max_context: int
    incoming: Coder
    outgoing: Coder

    def batch(self, row: Row) -> Batch:
        return make_batch([row], self.cache.page_size, self.stage.device, self.cache.enter([row], ()))


class _Calibrating:
    """Implements `Runner`: what is not of the calibration goes to `inner`."""

    def __init__(self, inner: Runner, place: RingPlace, parts: StageParts, thread: ComputeThread) -> None:
        self._inner, self._place, self._parts, self._thread = inner, place, parts, thread
        self._over = False
        self._wake = asyncio.Event()

    def receive(self, peer: NodeId, message: EpochMessage, payload: Payload, reply: Send) -> None:
        if isinstance(message, CheckCodecs | Calibrate | Calibrated):
            if self._over:
                raise refuse(peer, message)
            self._take(peer, message, payload, reply)
            self._wake.set()
        else:
            self._over = True
            self._inner.receive(peer, message, payload, reply)

    def forget(self, reply: Send) -> None:
        self._inner.forget(reply)

    def vitals(self) -> RunnerVitals:
        return self._inner.vitals()

    async def close(self) -> None:
        await self._inner.close()

    async def run(self) -> None:
        tasks = [asyncio.ensure_future(self._inner.run()), asyncio.ensure_future(self._calibrate())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _calibrate(self) -> None:
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                await self._work()
        except ProtocolViolation as error:
            raise Cheated(self._place.previous, str(error)) from error

    def _take(self, peer: NodeId, message: EpochMessage, payload: Payload, reply: Send) -> None:
        raise NotImplementedError

    async def _work(self) -> None:
        raise NotImplementedError


class CalibratingFirst(_Calibrating):
    def __init__(self, inner: Runner, place: RingPlace, parts: StageParts, thread: ComputeThread) -> None:
        super().__init__(inner, place, parts, thread)
        self._left: Iterator[Piece] = iter(())
        self._asked: Send | None = None
        self._due: deque[Piece] = deque()
        """Packed pieces whose answers have not come, with their numbers from `_answered` on."""
        self._answers: deque[Calibrated] = deque()
        self._number = self._answered = 0
        self._positions = self._agreed = 0
        self._divergence = 0.0

    def _take(self, peer: NodeId, message: EpochMessage, payload: Payload, reply: Send) -> None:
        match message:
            case CheckCodecs(tokens=tokens) if peer == self._place.head and self._asked is None:
                self._check_tokens(tokens)
                self._left, self._asked = self._pieces(tokens), reply
            case Calibrated() if peer == self._place.previous and len(self._answers) < len(self._due):
                self._answers.append(message)
            case _:
                raise refuse(peer, message)

    def _check_tokens(self, tokens: tuple[int, ...]) -> None:
        size = self._parts.stage.vocab_size
        if not 0 < len(tokens) <= MAX_POSITIONS or min(tokens) < 0 or max(tokens) >= size:
            raise ProtocolViolation("The head sent a calibration text that is none of this model; restart the head.")

    def _pieces(self, tokens: tuple[int, ...]) -> Iterator[Piece]:
        parts = self._parts
        return pieces(tokens, parts.num_pages, parts.cache.page_size, parts.max_context, parts.prefill_tokens)

    async def _work(self) -> None:
        while self._answers:
            self._count(self._answers.popleft())
        while len(self._due) < self._place.max_steps and (piece := next(self._left, None)) is not None:
            await self._send(piece)
        if self._positions and not self._due:
            self._report()

    def _report(self) -> None:
        """Once, when all has come back."""
        assert self._asked is not None, "only what was asked for comes back"
        mean = self._divergence / self._positions
        found = CodecsChecked(epoch=self._place.epoch, positions=self._positions, agreed=self._agreed, divergence=mean)
        self._positions = 0
        self._asked(found, b"")

    async def _send(self, piece: Piece) -> None:
        assert self._place.send is not None, "a ring with links has a stage behind the first"
        message, payload = await self._thread.compute(lambda: self._run(piece))
        if not piece.raw:
            self._due.append(piece)
        self._number += 1
        self._place.send(message, payload)

    def _run(self, piece: Piece) -> tuple[AnyMessage, Payload]:
        parts = self._parts
        batch = parts.batch(piece.row)
        tokens_T = torch.tensor(piece.tokens, dtype=torch.int64, device=parts.stage.device)
        hidden_TH = parts.stage.run(batch, parts.cache, tokens_T, lambda logits: None)
        header, payload = (PLAIN if piece.raw else parts.outgoing).encode(hidden_TH)
        epoch, number = self._place.epoch, self._number
        return Calibrate(epoch=epoch, number=number, row=piece.row, raw=piece.raw, hidden=header), payload

    def _count(self, answer: Calibrated) -> None:
        """Packed pieces have the odd numbers."""
        positions = self._due.popleft().row.length
        right = answer.number == 2 * self._answered + 1 and 0 <= answer.agreed <= positions
        if not right or not isfinite(answer.divergence) or not 0 <= answer.divergence <= MAX_DIVERGENCE:
            raise ProtocolViolation("The last stage compared what was not sent to it; update Muster on that machine.")
        self._answered += 1
        self._positions += positions
        self._agreed += answer.agreed
        self._divergence += answer.divergence


class CalibratingLater(_Calibrating):
    def __init__(self, inner: Runner, place: RingPlace, parts: StageParts, thread: ComputeThread) -> None:
        super().__init__(inner, place, parts, thread)
        self._inbox: deque[tuple[Calibrate, Payload]] = deque()
        self._waiting = WaitingSteps(2 * place.max_steps)
        self._comparison = Comparison()
        self._number = 0

    def _take(self, peer: NodeId, message: EpochMessage, payload: Payload, reply: Send) -> None:
        if not isinstance(message, Calibrate) or peer != self._place.previous:
            raise refuse(peer, message)
        self._waiting.add("pieces of a calibration text")
        self._inbox.append((message, payload))

    async def _work(self) -> None:
        assert self._place.send is not None, "a later stage has a stage before it to answer to"
        while self._inbox:
            message, payload = self._inbox.popleft()
            self._waiting.take()
            found = await self._thread.compute(lambda: self._run(message, payload))  # noqa: B023 - awaited here
            if found is not None:
                self._place.send(*found)

    def _run(self, message: Calibrate, payload: Payload) -> tuple[AnyMessage, Payload] | None:
        """What goes on to the next stage; of a raw piece nothing leaves the last."""
        parts, row = self._parts, message.row
        if message.number != self._number or message.hidden is None or row.scores != row.length:
            raise ProtocolViolation("A piece of a calibration text came out of order or without its hidden state.")
        self._number += 1
        step = Step(epoch=message.epoch, sequence=message.number, rows=(row,))
        check_step(step, parts.cache, parts.prefill_tokens)
        hidden_TH = parts.incoming.decode(message.hidden, payload, MAX_HIDDEN_BYTES)
        check_hidden(step, hidden_TH, parts.stage.hidden_size, parts.stage.dtype)
        batch = parts.batch(row)
        if self._place.is_last:
            self._comparison.begin(row, message.raw)
        look = self._comparison.keep if message.raw else self._comparison.compare
        hidden_TH = parts.stage.run(batch, parts.cache, hidden_TH.to(parts.stage.device), look)
        if self._place.is_last:
            return None if message.raw else self._answer(message)
        header, packed = (PLAIN if message.raw else parts.outgoing).encode(hidden_TH)
        passed = Calibrate(epoch=message.epoch, number=message.number, row=row, raw=message.raw, hidden=header)
        return passed, packed

    def _answer(self, message: Calibrate) -> tuple[AnyMessage, Payload]:
        seen = self._comparison
        divergence = min(seen.divergence, MAX_DIVERGENCE)
        seen.end()
        return Calibrated(epoch=message.epoch, number=message.number, agreed=seen.agreed, divergence=divergence), b""
