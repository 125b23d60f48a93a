"""Shows the head what this machine can do: does its exercises (`verify`) on the device that computes. Decides nothing.

The head may ask for as much as is reasonable, and no more: every exercise is checked before anything is allocated, ends
after a while, and takes only memory that is lent and free. One at a time; it ends with its channel, and as soon as
there is a stage to load.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Sized

import structlog
import torch
from blake3 import blake3
from torch import Tensor

from muster.errors import LinkDown, MachineTrouble, MusterError, ProtocolViolation
from muster.link.base import Channel
from muster.node.loading import StageLoader
from muster.node.measure import free_memory_bytes
from muster.node.memory import give_back
from muster.spec.reserve import usable_bytes
from muster.verify import memory, speed
from muster.wire.messages.every import AnyMessage
from muster.wire.messages.proof import ExerciseAnswer, Finished, Holding, HoldMemory, ReadMemory, ShowSpeed
from muster.wire.messages.transfer import Ping, Pong

log = structlog.get_logger()
MAX_S = 150.0
"""No exercise takes longer: the largest memory of all takes a slow processor a minute and a half."""
MAX_WAITING = 2
"""Messages that the head may send ahead."""
_BLOCK_ROWS = 64
"""Of memory, at once."""


class Showing:
    def __init__(self, device: torch.device, lent_bytes: int, loader: StageLoader, loads: Sized) -> None:
        """`loader` knows how much of what is lent is used; `loads` are those under way, and go first."""
        self._device, self._lent_bytes, self._loader, self._loads = device, lent_bytes, loader, loads
        self._turn: _Turn | None = None
        self._rests = asyncio.Event()
        self._rests.set()

    @property
    def is_busy(self) -> bool:
        return self._turn is not None

    def _spare_bytes(self) -> int:
        """Lent, free and of no use to anything now."""
        free = usable_bytes(self._device.type, free_memory_bytes(self._device))
        return min(free, self._lent_bytes - self._loader.used_bytes)

    async def give_way(self) -> None:
        """End the exercise at hand, if there is one; returns when it holds no memory any more."""
        if self._turn is not None:
            self._turn.stop()
        await self._rests.wait()

    async def serve(self, channel: Channel) -> None:
        """Until the channel ends. Closes it."""
        if self._turn is not None or len(self._loads):
            await channel.close()
            return
        self._turn = _Turn(channel, self._device, self._spare_bytes)
        self._rests.clear()
        try:
            await self._turn.run()
        except LinkDown as error:
            log.info("showing.ended", reason=str(error))
        except (MusterError, RuntimeError, MemoryError) as error:  # torch has RuntimeError for what a device cannot do
            log.warning("showing.refused", reason=str(error))
        finally:
            self._turn = None
            self._release()
            await channel.close()

    def _release(self) -> None:
        """What the exercise took goes back to the system: it is lent to layers, not to us."""
        give_back()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        self._rests.set()


class _Turn:
    def __init__(self, channel: Channel, device: torch.device, spare_bytes: Callable[[], int]) -> None:
        self._channel, self._device, self._spare_bytes = channel, device, spare_bytes
        self._held: tuple[memory.MemoryExercise, Tensor] | None = None
        self._stop = threading.Event()
        self._inbox: asyncio.Queue[AnyMessage | None] = asyncio.Queue(MAX_WAITING)

    async def run(self) -> None:
        reading = asyncio.create_task(self._read())
        try:
            while (message := await self._inbox.get()) is not None:
                await self._answer(message)
        finally:
            self._stop.set()
            self._held = None
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    def stop(self) -> None:
        """Answer nothing more, and give up what is being computed."""
        self._stop.set()
        while not self._inbox.empty():
            self._inbox.get_nowait()
        self._inbox.put_nowait(None)

    async def _read(self) -> None:
        try:
            while True:
                message, _ = await self._channel.receive()
                self._inbox.put_nowait(message)
        except (LinkDown, ProtocolViolation, asyncio.QueueFull):
            self.stop()

    async def _answer(self, message: AnyMessage) -> None:
        match message:
            case Ping(token=token):
                await self._channel.send(Pong(token=token))
            case ShowSpeed():
                exercise = speed.SpeedExercise(
                    message.seed, message.dtype, message.size, message.rounds, message.columns
                )
                _require(exercise.is_reasonable())
                ends = await asyncio.to_thread(end_numbers, exercise, self._device, self._deadline())
                await self._channel.send(Finished(digest=blake3(ends).hexdigest()))
                await self._channel.send(ExerciseAnswer(), ends)
            case HoldMemory(seed=seed, rows=rows):
                _require(memory.MemoryExercise(seed, rows).is_reasonable())
                self._held = None
                rows = min(rows, max(0, self._spare_bytes()) // memory.ROW_BYTES)
                held = memory.MemoryExercise(seed, rows - rows % 2)
                if held.is_reasonable():
                    filled = await asyncio.to_thread(filled_rows, held, self._device, self._deadline())
                    self._held = (held, filled)
                await self._channel.send(Holding(rows=held.rows if self._held is not None else 0))
            case ReadMemory(nonce=nonce):
                _require(self._held is not None and len(nonce) == memory.SEED_BYTES)
                assert self._held is not None
                sums = await asyncio.to_thread(row_sums, self._held[1], nonce, self._deadline())
                await self._channel.send(ExerciseAnswer(), sums)
            case _:
                _require(False)

    def _deadline(self) -> "ExerciseDeadline":
        return ExerciseDeadline(self._stop, time.monotonic() + MAX_S)


class ExerciseDeadline:
    """Whether somebody still waits for the answer; asked between two blocks of work."""

    def __init__(self, stop: threading.Event, until_s: float) -> None:
        self._stop, self._until_s = stop, until_s

    def check(self) -> None:
        """Raises `LinkDown` or `MachineTrouble` where nobody does."""
        if self._stop.is_set():
            raise LinkDown("The head has ended its exercise; nothing is left to do.")
        if time.monotonic() > self._until_s:
            raise MachineTrouble("An exercise of the head took too long; lend less, or free this machine for it.")


def end_numbers(exercise: speed.SpeedExercise, device: torch.device, deadline: ExerciseDeadline) -> bytes:
    """Of the network of random layers: float16 [OUTPUTS, columns]."""
    dtype = getattr(torch, exercise.dtype)
    w = (torch.tensor(exercise.weights()).to(device, torch.float32) * exercise.scale).to(dtype)
    base = (torch.tensor(exercise.inputs()).to(device, torch.float32) / 128).to(dtype)
    ends = torch.empty(speed.OUTPUTS, exercise.columns, dtype=torch.float16)
    shifts, at_once = exercise.columns // speed.BASE_COLUMNS, 4 if device.type == "cpu" else 64
    row = torch.arange(exercise.size, device=device)[:, None]
    for first in range(0, shifts, at_once):
        last = min(first + at_once, shifts)
        rolled = (row - torch.arange(first, last, device=device)) % exercise.size
        x = base[rolled].reshape(exercise.size, -1)
        for _ in range(exercise.rounds):
            deadline.check()
            x = (w @ x).clamp_(-1, 1)
        ends[:, first * speed.BASE_COLUMNS : last * speed.BASE_COLUMNS] = x[: speed.OUTPUTS].to("cpu", torch.float16)
    return ends.numpy().tobytes()


def filled_rows(exercise: memory.MemoryExercise, device: torch.device, deadline: ExerciseDeadline) -> Tensor:
    """All rows as they should be, as int64 [rows, words], on the device."""
    rows = torch.empty(exercise.rows, memory.ROW_BYTES // 8, dtype=torch.int64, device=device)
    for row in range(exercise.rows):
        deadline.check()
        rows[row] = torch.frombuffer(bytearray(exercise.drawn(row)), dtype=torch.int64)
    upper, lower = rows[: exercise.half], rows[exercise.half :]
    first, second = exercise.neighbours()
    for mine, others, neighbours in ((upper, lower, first), (lower, upper, second)):
        chosen = torch.tensor(neighbours, device=device)
        for start in range(0, exercise.half, _BLOCK_ROWS):
            deadline.check()
            block = mine[start : start + _BLOCK_ROWS]
            for column in range(memory.NEIGHBOURS):
                block.bitwise_xor_(others[chosen[start : start + _BLOCK_ROWS, column]])
    return rows


def row_sums(rows: Tensor, nonce: bytes, deadline: ExerciseDeadline) -> bytes:
    """Of each row with the weights of the nonce: int64 [rows]."""
    weights = torch.tensor(memory.weights_of(nonce), device=rows.device)
    sums = []
    for start in range(0, rows.shape[0], _BLOCK_ROWS):
        deadline.check()
        sums.append((rows[start : start + _BLOCK_ROWS] * weights).sum(dim=1).cpu())
    return torch.cat(sums).numpy().tobytes()


def _require(is_reasonable: bool) -> None:
    if not is_reasonable:
        raise ProtocolViolation("The head asks for an exercise that makes no sense; restart the head, or update it.")
