"""Has machines show what they claim, one exercise at a time each, and times them by the head's own clock.

Decides nothing: what was seen goes back as an event. Answers are checked in a thread, a few rows of each, which takes
some hundredths of a second.
"""

import asyncio
from collections.abc import Awaitable, Callable
from secrets import randbelow, token_bytes

import numpy as np
import numpy.typing as npt
import structlog
from blake3 import blake3

from muster.broker.events import ConnectionId, Exercise, Exercised, Exert, Shown
from muster.broker.members.trust import SLACK
from muster.errors import LinkDown, ProtocolViolation
from muster.link.base import Channel
from muster.verify import memory, speed
from muster.wire.frame import Frame
from muster.wire.messages.every import AnyMessage
from muster.wire.messages.proof import ExerciseAnswer, Finished, Holding, HoldMemory, ReadMemory, ShowSpeed
from muster.wire.messages.transfer import Ping, Pong

log = structlog.get_logger()
Open = Callable[[ConnectionId, str], Awaitable[Channel | None]]
SHOW_S = 0.1
"""So long an exercise is meant to take."""
GRACE_S = 2.0
"""More than it may take at the claimed speed, for the way there and back and for a busy machine."""
MOST_S = 20.0
"""But no more than this at any speed."""
FILL_S, FILL_BYTES_PER_S = 5.0, 50e6
"""To fill memory takes at most so long, and the time that this rate needs."""
READ_S, READ_BYTES_PER_S = 1.5, 4e8
"""To read it. Who has to draw it again needs more for the largest exercises."""
ANSWER_S = 20.0
"""A slow link may take so long for an answer that is known already."""
MOST_ROUND_TRIP_S = 0.3
"""Of the time that a machine takes, so much at most is put down to its link, whatever it says."""
PINGS = 3
TRIES = 3
"""The best counts: what else goes on, there or here, only makes a machine look slower."""
MAX_AT_ONCE = 16


class Exercising:
    def __init__(self, open_channel: Open) -> None:
        self._open = open_channel
        self._places = asyncio.Semaphore(MAX_AT_ONCE)

    async def run(self, wanted: Exert) -> Exercised:
        """Never raises for what a machine does."""
        async with self._places:
            shown = await self._shown(wanted.connection, wanted.exercise)
        log.info("node.exercised", connection=wanted.connection, fault=shown.fault, flops_per_s=dict(shown.flops_per_s))
        return Exercised(wanted.connection, shown)

    async def _shown(self, connection: ConnectionId, exercise: Exercise) -> Shown:
        nothing = dict.fromkeys((dtype for dtype in exercise.flops_per_s if dtype in speed.DTYPES), 0.0)
        try:
            async with asyncio.timeout(ANSWER_S):
                channel = await self._open(connection, "proof")
        except (LinkDown, TimeoutError):
            channel = None
        if channel is None:
            return Shown(nothing, fault="it could not be reached")
        session = _Session(channel, nothing)
        try:
            await session.run(exercise)
        except TimeoutError:
            pass  # what it has shown until then counts
        except LinkDown:
            session.fault = session.fault or "it hung up"
        except ProtocolViolation:
            session.fault = "it answered with something else"
        finally:
            await channel.close()
        return Shown(session.flops_per_s, session.held_bytes, session.round_trip_s, session.fault)


class _Session:
    """One exercise on one channel."""

    def __init__(self, channel: Channel, flops_per_s: dict[str, float]) -> None:
        self._channel = channel
        self.flops_per_s = flops_per_s
        self.held_bytes = 0
        self.round_trip_s: float | None = None
        self.fault = ""

    async def run(self, exercise: Exercise) -> None:
        await self._ping()
        for dtype in self.flops_per_s:
            claimed, tries = exercise.flops_per_s[dtype], 0
            while tries < TRIES and not self.fault and SLACK * self.flops_per_s[dtype] < claimed:
                await self._show_speed(dtype, claimed)
                tries += 1
        if exercise.held_bytes > 0:
            await self._show_memory(exercise.held_bytes)

    async def _ping(self) -> None:
        seconds = []
        for token in range(PINGS):
            started_s = _now()
            pong, _ = await self._asked(Ping(token=token), GRACE_S + MOST_ROUND_TRIP_S)
            if pong != Pong(token=token):
                raise ProtocolViolation("A node answered a ping with something else; update Muster on it.")
            seconds.append(_now() - started_s)
        self.round_trip_s = min(seconds)

    async def _show_speed(self, dtype: str, claimed: float) -> None:
        exercise = speed.sized(token_bytes(speed.SEED_BYTES), dtype, claimed, SHOW_S)
        ask = ShowSpeed(
            seed=exercise.seed,
            dtype=dtype,
            size=exercise.size,
            rounds=exercise.rounds,
            columns=exercise.columns,
        )
        started_s = _now()
        finished, _ = await self._asked(ask, min(MOST_S, SLACK * exercise.flops / claimed) + GRACE_S)
        took_s = _now() - started_s
        answer, payload = await self._heard(ANSWER_S)
        if not isinstance(finished, Finished) or not isinstance(answer, ExerciseAnswer):
            raise ProtocolViolation("A node did not answer its exercise; update Muster on it.")
        picks = _picks(speed.PICKS, exercise.columns)

        def is_right() -> bool:
            return blake3(payload).hexdigest() == finished.digest and exercise.holds(payload, picks)

        if await asyncio.to_thread(is_right):
            away_s = min(self.round_trip_s or 0.0, MOST_ROUND_TRIP_S, 0.9 * took_s)
            self.flops_per_s[dtype] = max(self.flops_per_s[dtype], exercise.flops / (took_s - away_s))
        else:
            self.fault = f"its answer in {dtype} was wrong"

    async def _show_memory(self, wanted_bytes: int) -> None:
        exercise = memory.sized(token_bytes(memory.SEED_BYTES), wanted_bytes)
        fill_s = FILL_S + exercise.rows * memory.ROW_BYTES / FILL_BYTES_PER_S
        holding, _ = await self._asked(HoldMemory(seed=exercise.seed, rows=exercise.rows), fill_s)
        if not isinstance(holding, Holding) or not 0 <= holding.rows <= exercise.rows:
            raise ProtocolViolation("A node did not say what it holds; update Muster on it.")
        held = memory.MemoryExercise(exercise.seed, holding.rows)
        if not held.is_reasonable():
            return
        nonce, held_bytes = token_bytes(memory.SEED_BYTES), held.rows * memory.ROW_BYTES
        read_s = READ_S + MOST_ROUND_TRIP_S + held_bytes / READ_BYTES_PER_S
        answer, payload = await self._asked(ReadMemory(nonce=nonce), read_s)
        picks = _picks(memory.PICKS, held.rows)
        if isinstance(answer, ExerciseAnswer) and await asyncio.to_thread(held.holds, payload, nonce, picks):
            self.held_bytes = held_bytes
        else:
            self.fault = "its answer about the memory that it holds was wrong"

    async def _asked(self, message: AnyMessage, seconds: float) -> Frame:
        await self._channel.send(message)
        return await self._heard(seconds)

    async def _heard(self, seconds: float) -> Frame:
        async with asyncio.timeout(seconds):
            return await self._channel.receive()


def _picks(count: int, among: int) -> npt.NDArray[np.int64]:
    return np.array([randbelow(among) for _ in range(count)], dtype=np.int64)


def _now() -> float:
    return asyncio.get_running_loop().time()
