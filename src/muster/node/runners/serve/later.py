"""A later stage of a ring: takes steps in, hands hidden states on; the last hands on what it sampled."""

import asyncio
import time
from functools import partial
from typing import Any

from msgspec.structs import replace

from muster.compress.registry import Decode, Encode
from muster.errors import ProtocolViolation
from muster.node.runners.base import Cheated, RunnerVitals, Send, refuse
from muster.node.runners.serve.preparing import Preparing
from muster.node.runners.serve.receipts import RingReceipts, Watched
from muster.node.runners.serve.ring import MAX_HIDDEN_BYTES, RingPlace, WaitingSteps
from muster.node.runners.thread import ComputeThread
from muster.serve.follower import Follower
from muster.spec.pool import NodeId
from muster.wire.frame import Payload
from muster.wire.messages.base import EpochMessage
from muster.wire.messages.generate import Admissions, Prepare, Prepared, Spent, Step, StepDone
from muster.wire.messages.receipts import Receipts


class LaterStage:
    """Implements `Runner`."""

    def __init__(
        self,
        place: RingPlace,
        follower: Follower[Any],
        decode: Decode,
        encode: Encode,
        thread: ComputeThread,
        receipts: RingReceipts | None = None,
        watched: Watched | None = None,
    ) -> None:
        """`watched` are the layers of a last stage that signs `receipts`."""
        self._receipts, self._watched = receipts, watched
        self._place = place
        self._follower = follower
        self._decode, self._encode = decode, encode
        self._thread = thread
        self._waiting = WaitingSteps(place.max_steps)
        self._admissions: dict[int, Admissions] = {}
        self._waiting_admissions = WaitingSteps(place.max_steps)
        self._preparing = None if follower.constraints is None else Preparing(place.epoch, follower.constraints)
        self._wake = asyncio.Event()
        self._received = self._sent = 0

    def receive(self, peer: NodeId, message: EpochMessage, payload: Payload, reply: Send) -> None:
        match message:
            case Step() if peer == self._place.previous:
                self._waiting.add("steps")
                if self._follower.add(message, (payload, time.perf_counter())):
                    self._received += 1
                else:
                    self._waiting.take()
            case Admissions(sequence=sequence) if peer == self._place.first and self._place.is_last:
                if sequence not in self._admissions and not self._follower.knows(sequence):
                    self._waiting_admissions.add("admissions")
                    self._admissions[sequence] = message
            case Prepare() if peer == self._place.first and self._preparing is not None:
                self._preparing.begin(message, self._answer)
            case Receipts() if peer == self._place.previous:
                if self._receipts is not None:
                    self._receipts.heard(message)
            case _:
                raise refuse(peer, message)
        self._wake.set()

    def _answer(self, prepared: Prepared) -> None:
        self._place.kept.beside.append(prepared)
        if self._place.send is not None:
            self._place.send(prepared, b"")

    def forget(self, reply: Send) -> None:
        """No session talks to a later stage."""

    async def run(self) -> None:
        try:
            await self._work()
        except ProtocolViolation as error:
            raise Cheated(self._place.previous, str(error)) from error

    async def _work(self) -> None:
        assert self._place.send is not None, "a later stage has a stage before it to answer to"
        while True:
            await self._wake.wait()
            self._wake.clear()
            while (due := self._take()) is not None:
                step, payload, came_s = due
                began_s = time.perf_counter()
                turn = partial(self._turn, step, payload, self._follower.coming())
                result, packed, values = await self._thread.compute(turn)
                spent = Spent(began_s - came_s, time.perf_counter() - began_s)
                message = replace(result, spent=(*step.spent, spent))
                self._place.kept.close(step.closed)
                self._place.kept.add(step.sequence, message, packed)
                self._place.send(message, packed)
                self._sent += 1
                if self._receipts is not None:
                    self._receipts.note(step, payload, result, packed, values)
                await asyncio.sleep(0)

    def _take(self) -> tuple[Step, Payload, float] | None:
        """The next step with all that belongs to it, once that is here, and when it came."""
        due = self._follower.take(self._is_complete)
        if due is None:
            return None
        step, (payload, came_s) = due
        if step.apart and self._place.is_last:
            admissions = self._admissions.pop(step.sequence)
            self._waiting_admissions.take()
            step = replace(
                step,
                admit=admissions.admit,
                release=admissions.release,
                forget=admissions.forget,
                guesses=admissions.guesses,
                apart=False,
            )
        self._waiting.take()
        return step, payload, came_s

    def _is_complete(self, step: Step) -> bool:
        """Whether all that belongs to it is here."""
        return not (step.apart and self._place.is_last) or step.sequence in self._admissions

    def vitals(self) -> RunnerVitals:
        return self._thread.vitals(received=self._received, sent=self._sent)

    async def close(self) -> None:
        if self._preparing is not None:
            self._preparing.close()
        if self._receipts is not None:
            self._receipts.stop()
        await self._thread.close()

    def _turn(self, step: Step, payload: Payload, coming: Step | None) -> tuple[Step | StepDone, Payload, bytes]:
        if step.hidden is None:
            raise ProtocolViolation("A step came without a hidden state; the sender must put one in its payload.")
        result = self._follower.run(step, self._decode(step.hidden, payload, MAX_HIDDEN_BYTES), coming)
        if isinstance(result, StepDone):
            if self._receipts is None or self._watched is None:
                return result, b"", b""
            return result, b"", self._receipts.values(step, result, self._watched.logits_SV)
        forward, hidden_TH = result
        header, packed = self._encode(hidden_TH)
        return replace(forward, hidden=header), packed, b""
