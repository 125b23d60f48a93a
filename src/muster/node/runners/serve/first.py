"""The first stage of a ring: it schedules every step and talks to sessions.

What arrives waits in an inbox; all touching of the engine happens in the compute thread, so the engine needs no locks.
"""

import asyncio
import dataclasses
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from muster.compress.registry import Encode
from muster.errors import MachineTrouble, MusterError, ProtocolViolation
from muster.node.runners.base import Cheated, RunnerVitals, Send, refuse
from muster.node.runners.serve.preparing import Preparing
from muster.node.runners.serve.receipts import RingReceipts
from muster.node.runners.serve.ring import RingPlace, WaitingSteps
from muster.node.runners.thread import ComputeThread
from muster.serve.engine import Engine, Outputs
from muster.spec.pool import NodeId
from muster.spec.request import Progress, Request
from muster.spec.sampling import MAX_GRAMMARS
from muster.wire.frame import Payload
from muster.wire.messages.base import EpochMessage
from muster.wire.messages.generate import (
    Admissions,
    Cancel,
    Failed,
    Prepare,
    Prepared,
    Step,
    StepDone,
    Submit,
    Tokens,
)

ANSWER_S = 120.0
"""In which the last stage answers at least one grammar. The head tried each in seconds; a busy machine takes longer."""


@dataclass(frozen=True, slots=True)
class _Submitted:
    request: Request
    reply: Send


@dataclass(frozen=True, slots=True)
class _Cancelled:
    request_id: str


@dataclass(frozen=True, slots=True)
class _SessionGone:
    reply: Send


@dataclass(frozen=True, slots=True)
class _CameBack:
    done: StepDone
    stage_s: tuple[float, ...] = ()
    """What the step took at each stage."""
    latency_s: float = 0.0
    """Of its round, when nobody worked on it or could have."""


_Item = _Submitted | _Cancelled | _SessionGone | _CameBack | Prepared


@dataclass(slots=True)
class _Turn:
    """What one turn of the compute thread brought to light."""

    progress: list[Progress] = field(default_factory=list)
    refused: list[tuple[str, Send, MusterError]] = field(default_factory=list)
    failed: tuple[tuple[str, MusterError], ...] = ()
    prepare: tuple[Prepare, ...] = ()
    step: Step | None = None
    payload: Payload = b""


class FirstStage:
    """Implements `Runner`."""

    def __init__(
        self,
        place: RingPlace,
        engine: Engine[Any],
        encode: Encode,
        thread: ComputeThread,
        receipts: RingReceipts | None = None,
    ) -> None:
        self._receipts = receipts
        self._place = place
        self._engine = engine
        self._encode = encode
        self._thread = thread
        self._inbox: deque[_Item] = deque()
        self._waiting = WaitingSteps(place.max_steps)
        self._waiting_answers = WaitingSteps(MAX_GRAMMARS)
        self._preparing = None if engine.constraints is None else Preparing(place.epoch, engine.constraints)
        self._asked: set[int] = set()
        """Grammars that nothing has been said about."""
        self._answered: deque[int] = deque(maxlen=2 * MAX_GRAMMARS)
        self._patience: asyncio.TimerHandle | None = None
        self._is_overdue = False
        self._replies: dict[str, Send] = {}
        self._received = self._sent = 0
        self._left: dict[int, tuple[float, float]] = {}
        """Steps on their way: what each took here, and when it left."""
        self._wake = asyncio.Event()

    def receive(self, peer: NodeId, message: EpochMessage, payload: Payload, reply: Send) -> None:
        match message:
            case Submit(request=request) if peer == self._place.head:
                self._put(_Submitted(request, reply))
            case Cancel(request_id=request_id) if peer == self._place.head:
                self._put(_Cancelled(request_id))
            case StepDone() if peer == self._place.previous:
                if message.sequence in self._left or not 0 <= message.sequence < self._sent:
                    self._waiting.add("results")
                    self._received += 1
                    self._put(self._timed(message))
            case Prepared() if peer == self._place.previous and self._preparing is None:
                if message.number in self._asked or message.number not in self._answered:
                    self._waiting_answers.add("answers about grammars")
                    self._asked.discard(message.number)
                    self._answered.append(message.number)
                    self._wait_for_grammars()
                    self._put(message)
            case _:
                raise refuse(peer, message)

    def forget(self, reply: Send) -> None:
        """Stop working for this session, also for what it has only just submitted."""
        self._put(_SessionGone(reply))

    def _put(self, item: _Item) -> None:
        self._inbox.append(item)
        self._wake.set()

    async def run(self) -> None:
        try:
            await self._work()
        except ProtocolViolation as error:
            self._give_up(error)
            raise Cheated(self._place.previous, str(error)) from error
        except Exception as error:
            self._give_up(error if isinstance(error, MusterError) else MachineTrouble(f"A stage broke ({error!r})."))
            raise

    async def _work(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            self._check_answers()
            while self._inbox or self._engine.has_work:
                self._check_answers()
                began_s = time.perf_counter()
                turn = await self._thread.compute(self._turn)
                self._deliver(turn, time.perf_counter() - began_s)
                # Let channels breathe between steps: a busy engine must not starve the event loop.
                await asyncio.sleep(0)

    def vitals(self) -> RunnerVitals:
        in_flight = self._engine.most_in_flight
        vitals = self._thread.vitals(len(self._replies), self._received, self._sent, in_flight)
        return dataclasses.replace(vitals, guesses=self._engine.guess_counts())

    async def close(self) -> None:
        self._asked.clear()
        self._wait_for_grammars()
        if self._preparing is not None:
            self._preparing.close()
        if self._receipts is not None:
            self._receipts.stop()
        await self._thread.close()

    def _turn(self) -> _Turn:
        turn = _Turn()
        while self._inbox:
            self._apply(self._inbox.popleft(), turn)
        outputs = self._engine.step()
        turn.progress += outputs.progress
        turn.prepare, turn.failed = self._preparations(outputs), outputs.failed
        if outputs.forward is not None:
            step, hidden_TH = outputs.forward
            header, turn.payload = self._encode(hidden_TH)
            turn.step = replace(step, hidden=header)
        return turn

    def _apply(self, item: _Item, turn: _Turn) -> None:
        match item:
            case _Submitted(request, reply):
                try:
                    self._engine.submit(request)
                    self._replies[request.id] = reply
                except MusterError as error:
                    turn.refused.append((request.id, reply, error))
            case _Cancelled(request_id):
                self._cancel(request_id)
            case _SessionGone(reply):
                for request_id in [name for name, owner in self._replies.items() if owner == reply]:
                    self._cancel(request_id)
            case _CameBack(done, stage_s, latency_s):
                self._waiting.take()
                turn.progress += self._engine.receive(done)
                if stage_s:
                    self._engine.observe(stage_s, latency_s)
            case Prepared():
                if self._preparing is None:
                    self._waiting_answers.take()
                self._engine.prepared(item)

    def _cancel(self, request_id: str) -> None:
        self._engine.cancel(request_id)
        self._replies.pop(request_id, None)

    def _timed(self, done: StepDone) -> _CameBack:
        if done.sequence not in self._left:
            return _CameBack(done)  # it cannot be, as the engine will say
        computed_s, left_s = self._left.pop(done.sequence)
        elsewhere_s = sum(spent.waited_s + spent.computed_s for spent in done.spent)
        latency_s = time.perf_counter() - left_s - elsewhere_s
        return _CameBack(done, (computed_s, *(spent.computed_s for spent in done.spent)), latency_s)

    def _deliver(self, turn: _Turn, took_s: float) -> None:
        for message in turn.prepare:
            self._prepare(message)
        if turn.step is not None and self._place.send is not None:
            self._left[turn.step.sequence] = took_s, time.perf_counter()
            step = self._without_prompts(turn.step)
            self._place.kept.close(step.closed)
            self._place.kept.add(step.sequence, step, turn.payload)
            self._place.send(step, turn.payload)
            self._sent += 1
            if self._receipts is not None:
                self._receipts.note(step, None, step, turn.payload, b"")
        by_reply: dict[Send, list[Progress]] = {}
        for progress in turn.progress:
            reply = self._replies.get(progress.request_id)
            if reply is not None:
                by_reply.setdefault(reply, []).append(progress)
            if progress.finish is not None:
                self._replies.pop(progress.request_id, None)
        for reply, items in by_reply.items():
            reply(Tokens(epoch=self._place.epoch, progress=tuple(items)), b"")
        for request_id, error in turn.failed:
            owner = self._replies.pop(request_id, None)
            if owner is not None:
                turn.refused.append((request_id, owner, error))
        for request_id, reply, error in turn.refused:
            reply(self._failure(request_id, error, retry=error.status == 503), b"")

    def _preparations(self, outputs: Outputs) -> tuple[Prepare, ...]:
        """What is to be forgotten goes with the first."""
        return tuple(
            Prepare(epoch=self._place.epoch, number=number, grammar=grammar, forget=() if index else outputs.forget)
            for index, (number, grammar) in enumerate(outputs.prepare)
        )

    def _prepare(self, message: Prepare) -> None:
        """Where tokens are chosen: at the last stage, or here."""
        place = self._place
        send, kept = (place.send_to_last, place.kept_apart) if place.send_to_last else (place.send, place.kept)
        if self._preparing is not None:
            self._preparing.begin(message, self._put)
        elif send is not None:
            kept.beside.append(message)
            self._asked.add(message.number)
            if len(self._asked) == 1:  # else the oldest is what it is waited for
                self._wait_for_grammars()
            send(message, b"")

    def _wait_for_grammars(self) -> None:
        """The next answer is due from now on, if there is one to come."""
        if self._patience is not None:
            self._patience.cancel()
        self._patience = asyncio.get_running_loop().call_later(ANSWER_S, self._too_late) if self._asked else None

    def _too_late(self) -> None:
        self._is_overdue = True
        self._wake.set()

    def _check_answers(self) -> None:
        """Whoever waits for a grammar would wait for ever, and the head sees a pipeline at work."""
        if self._is_overdue:
            raise ProtocolViolation(f"The last stage answered no grammar for {ANSWER_S:.0f} s; restart that machine.")

    def _without_prompts(self, step: Step) -> Step:
        """What stages between may see; the rest goes straight to the last."""
        apart = Admissions(
            epoch=step.epoch,
            sequence=step.sequence,
            admit=step.admit,
            release=step.release,
            forget=step.forget,
            guesses=step.guesses,
        )
        if self._place.send_to_last is None or not (apart.admit or apart.release or apart.forget or apart.guesses):
            return step
        self._place.kept_apart.close(step.closed)
        self._place.kept_apart.add(step.sequence, apart)
        self._place.send_to_last(apart, b"")
        return replace(step, admit=(), release=(), forget=(), guesses=(), apart=True)

    def _give_up(self, error: MusterError) -> None:
        """Tell every session to go elsewhere with what it has."""
        for request_id, reply in self._replies.items():
            reply(self._failure(request_id, error, retry=True), b"")
        self._replies.clear()

    def _failure(self, request_id: str, error: MusterError, retry: bool) -> Failed:
        code, reason = error.code, str(error)
        return Failed(epoch=self._place.epoch, request_id=request_id, code=code, reason=reason, retry=retry)
