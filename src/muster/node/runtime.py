"""One stage at work: an inbox, one thread that computes, an outbox. Two kinds, for the ring's head and for the rest.

Knows nothing of links: `send` carries a message to the next stage, `reply` carries tokens to the session that asked.
All touching of the engine happens in the one compute thread, so the engine needs no locks.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from msgspec.structs import replace

from muster.compress.raw import decode, encode
from muster.errors import MusterError, ProtocolViolation
from muster.node.measure import own_clock
from muster.serve.engine import Engine
from muster.serve.follower import Follower
from muster.spec.request import Progress, Request
from muster.wire.frame import CHANNEL_LIMITS
from muster.wire.messages.every import AnyMessage
from muster.wire.messages.generate import Failed, Step, StepDone, Tokens

MAX_HIDDEN_BYTES = CHANNEL_LIMITS["data"].payload_bytes
Buffer = bytes | bytearray | memoryview
Result = TypeVar("Result")
Send = Callable[[AnyMessage, Buffer], None]
"""Queue a message (and its payload) for a peer; never blocks, the number of steps in flight bounds it."""


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


_Item = _Submitted | _Cancelled | _SessionGone | StepDone


@dataclass(slots=True)
class _Turn:
    """What one turn of the compute thread brought to light."""

    progress: list[Progress] = field(default_factory=list)
    refused: list[tuple[str, Send, MusterError]] = field(default_factory=list)
    step: Step | None = None
    payload: Buffer = b""


def slowed(work: Callable[[], Result], speed: float) -> Result:
    """Do `work`, and with `speed` below 1 go on sleeping until a machine so slow would be done.

    What others on this machine take from the processor does not count, as long as they leave enough of it: so several
    slow machines can be rehearsed on one, each as fast as it says.
    """
    clock = own_clock()
    began_s, own_began_s = time.perf_counter(), clock()
    result = work()
    if speed < 1:
        rest_s = (clock() - own_began_s) / speed - (time.perf_counter() - began_s)
        time.sleep(max(0.0, rest_s))
    return result


class Runtime:
    """What both kinds share: the thread, the pace, and the end."""

    def __init__(self, epoch: int, speed: float, most_steps: int) -> None:
        """`most_steps` are in flight at once; more of them waiting here come from a peer that breaks the rules."""
        self.epoch = epoch
        self.busy_s = 0.0
        self.steps = 0
        self._most_steps = most_steps
        self._waiting_steps = 0
        self._speed = speed
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"stage-{epoch}")
        self._turn_began = 0.0
        self._turn_ends: Future[Any] | None = None
        self._wake = asyncio.Event()

    @property
    def computing_s(self) -> float:
        """How long the turn at hand has been in the compute thread; 0 between turns."""
        ended = self._turn_ends is None or self._turn_ends.done()
        return 0.0 if ended else time.perf_counter() - self._turn_began

    async def ended(self) -> None:
        """Returns when the compute thread is done with its last turn. A hung one never is."""
        if self._turn_ends is not None:
            await asyncio.gather(asyncio.wrap_future(self._turn_ends), return_exceptions=True)

    async def _compute(self, work: Callable[[], Result]) -> Result:
        """Run `work` in the compute thread, at the speed that this machine lends."""
        self._turn_began = time.perf_counter()
        future = self._thread.submit(slowed, work, self._speed)
        self._turn_ends = future
        result = await asyncio.wrap_future(future)
        self.busy_s += time.perf_counter() - self._turn_began
        self.steps += 1
        return result

    def _expect_room(self, kind: str) -> None:
        """One more step waits. Without a limit a neighbour could fill this machine's memory."""
        if self._waiting_steps >= self._most_steps:
            raise ProtocolViolation(f"More than {self._most_steps} {kind} wait here; the neighbour runs changed code.")
        self._waiting_steps += 1

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)


class HeadRuntime(Runtime):
    """The first stage: schedules, and talks to sessions."""

    def __init__(
        self, epoch: int, engine: Engine[Any], send: Send | None, speed: float = 1.0, most_steps: int = 64
    ) -> None:
        super().__init__(epoch, speed, most_steps)
        self._engine = engine
        self._send = send
        self._inbox: deque[_Item] = deque()
        self._replies: dict[str, Send] = {}

    @property
    def active_requests(self) -> int:
        return len(self._replies)

    def submit(self, request: Request, reply: Send) -> None:
        self._put(_Submitted(request, reply))

    def cancel(self, request_id: str) -> None:
        self._put(_Cancelled(request_id))

    def done(self, done: StepDone) -> None:
        self._expect_room("results")
        self._put(done)

    def forget_session(self, reply: Send) -> None:
        """The session behind this channel is gone: stop working for it, also for what it has only just submitted."""
        self._put(_SessionGone(reply))

    def _put(self, item: _Item) -> None:
        self._inbox.append(item)
        self._wake.set()

    async def run(self) -> None:
        """Work until cancelled. An unexpected error ends the run: the worker reports the stage as lost."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._inbox or self._engine.has_work:
                self._deliver(await self._compute(self._turn))
                # Let channels breathe between steps: a busy engine must not starve the event loop.
                await asyncio.sleep(0)

    def _turn(self) -> _Turn:
        turn = _Turn()
        while self._inbox:
            self._apply(self._inbox.popleft(), turn)
        outputs = self._engine.step()
        turn.progress += outputs.progress
        if outputs.forward is not None:
            step, hidden_TH = outputs.forward
            header, turn.payload = encode(hidden_TH)
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
            case StepDone():
                self._waiting_steps -= 1
                turn.progress += self._engine.receive(item)

    def _cancel(self, request_id: str) -> None:
        self._engine.cancel(request_id)
        self._replies.pop(request_id, None)

    def _deliver(self, turn: _Turn) -> None:
        if turn.step is not None and self._send is not None:
            self._send(turn.step, turn.payload)
        by_reply: dict[Send, list[Progress]] = {}
        for progress in turn.progress:
            reply = self._replies.get(progress.request_id)
            if reply is not None:
                by_reply.setdefault(reply, []).append(progress)
            if progress.finish is not None:
                self._replies.pop(progress.request_id, None)
        for reply, items in by_reply.items():
            reply(Tokens(epoch=self.epoch, progress=tuple(items)), b"")
        for request_id, reply, error in turn.refused:
            reply(self._failure(request_id, error, retry=error.status == 503), b"")

    def give_up(self, error: MusterError) -> None:
        """Tell every session to go elsewhere with what it has."""
        for request_id, reply in self._replies.items():
            reply(self._failure(request_id, error, retry=True), b"")
        self._replies.clear()

    def _failure(self, request_id: str, error: MusterError, retry: bool) -> Failed:
        return Failed(epoch=self.epoch, request_id=request_id, code=error.code, reason=str(error), retry=retry)


class FollowerRuntime(Runtime):
    """A later stage: takes steps in, hands hidden states (or, the last, samples) on."""

    def __init__(
        self, epoch: int, follower: Follower[Any], send: Send, speed: float = 1.0, most_steps: int = 64
    ) -> None:
        super().__init__(epoch, speed, most_steps)
        self._follower = follower
        self._send = send
        self._inbox: deque[tuple[Step, Buffer]] = deque()

    @property
    def active_requests(self) -> int:
        return 0

    def step(self, step: Step, payload: Buffer) -> None:
        self._expect_room("steps")
        self._inbox.append((step, payload))
        self._wake.set()

    async def run(self) -> None:
        """Work until cancelled; see `HeadRuntime.run`."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._inbox:
                step, payload = self._inbox.popleft()
                self._waiting_steps -= 1
                message, buffer = await self._compute(partial(self._turn, step, payload))
                self._send(message, buffer)
                await asyncio.sleep(0)

    def _turn(self, step: Step, payload: Buffer) -> tuple[AnyMessage, Buffer]:
        if step.hidden is None:
            raise ProtocolViolation("A step came without a hidden state; the sender must put one in its payload.")
        result = self._follower.run(step, decode(step.hidden, payload, MAX_HIDDEN_BYTES))
        if isinstance(result, StepDone):
            return result, b""
        forward, hidden_TH = result
        header, buffer = encode(hidden_TH)
        return replace(forward, hidden=header), buffer
