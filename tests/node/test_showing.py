"""A worker shows a head what it can do, within bounds: no head gets more out of it than is reasonable."""

import asyncio
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blake3 import blake3

from muster.errors import LinkDown
from muster.link.base import Channel
from muster.verify.memory import ROW_BYTES, MemoryExercise
from muster.verify.speed import SpeedExercise
from muster.wire.messages.every import AnyMessage
from muster.wire.messages.membership import Heartbeat, Measured
from muster.wire.messages.proof import ExerciseAnswer, Finished, Holding, HoldMemory, ReadMemory, ShowSpeed
from tests.node.hostile_head import MEMORY_BYTES, HostileHead

pytestmark = pytest.mark.anyio
SEED, NONCE = bytes(range(16)), bytes(16)


def show_speed(**changes: Any) -> ShowSpeed:
    return ShowSpeed(**({"seed": SEED, "dtype": "float32", "size": 256, "rounds": 4, "columns": 512} | changes))


async def opened(head: HostileHead) -> Channel:
    await head.hears(Measured)
    return await head.connection.open("proof")


async def asked(channel: Channel, message: AnyMessage) -> tuple[AnyMessage, bytes]:
    await channel.send(message)
    answer, payload = await asyncio.wait_for(channel.receive(), 30)
    return answer, bytes(payload)


async def test_a_worker_shows_its_speed_and_binds_its_answer_before_it_sends_it(tmp_path: Path) -> None:
    async with HostileHead(tmp_path) as head:
        channel = await opened(head)
        finished, _ = await asked(channel, show_speed())
        answer, payload = await asyncio.wait_for(channel.receive(), 30)
        assert isinstance(answer, ExerciseAnswer)
        assert finished == Finished(digest=blake3(payload).hexdigest())
        assert SpeedExercise(SEED, "float32", 256, 4, 512).holds(payload, np.arange(0, 512, 50))


async def test_a_worker_holds_memory_and_tells_of_any_part_of_it(tmp_path: Path) -> None:
    async with HostileHead(tmp_path) as head:
        channel = await opened(head)
        assert (await asked(channel, HoldMemory(seed=SEED, rows=20)))[0] == Holding(rows=20)
        for nonce in (NONCE, SEED):
            answer, payload = await asked(channel, ReadMemory(nonce=nonce))
            assert isinstance(answer, ExerciseAnswer)
            assert MemoryExercise(SEED, 20).holds(payload, nonce, np.arange(20))


async def test_a_worker_holds_no_more_than_it_lends(tmp_path: Path) -> None:
    async with HostileHead(tmp_path) as head:
        channel = await opened(head)
        holding, _ = await asked(channel, HoldMemory(seed=SEED, rows=60_000))
        assert isinstance(holding, Holding)
        assert 0 < holding.rows <= MEMORY_BYTES // ROW_BYTES


@pytest.mark.parametrize(
    "message",
    [
        show_speed(columns=2**40),
        show_speed(rounds=2**40),
        show_speed(size=2**20),
        show_speed(dtype="storage"),
        show_speed(dtype="load"),
        show_speed(columns=-256),
        show_speed(seed=b""),
        HoldMemory(seed=SEED, rows=2**50),
        HoldMemory(seed=SEED, rows=-2),
        HoldMemory(seed=SEED, rows=0),
        ReadMemory(nonce=NONCE),
        ExerciseAnswer(),
    ],
)
async def test_an_exercise_that_makes_no_sense_ends_its_channel_and_nothing_else(
    tmp_path: Path, message: AnyMessage
) -> None:
    async with HostileHead(tmp_path) as head:
        channel = await opened(head)
        await channel.send(message)
        with pytest.raises(LinkDown):
            await asyncio.wait_for(channel.receive(), 10)
        await head.hears(Heartbeat)


async def test_an_exercise_ends_with_its_channel_and_only_one_goes_on_at_a_time(tmp_path: Path) -> None:
    async with HostileHead(tmp_path) as head:
        channel = await opened(head)
        await channel.send(show_speed(size=2048, rounds=8, columns=2**19))  # minutes
        await asyncio.sleep(0.1)
        second = await head.connection.open("proof")
        with pytest.raises(LinkDown):
            await asyncio.wait_for(second.receive(), 10)
        await channel.close()
        started = time.monotonic()
        while head.worker._incoming.showing.is_busy:
            await asyncio.sleep(0.02)
        assert time.monotonic() - started < 20
        await head.hears(Heartbeat)


async def test_a_head_that_asks_ahead_without_listening_is_cut_off(tmp_path: Path) -> None:
    async with HostileHead(tmp_path) as head:
        channel = await opened(head)
        for _ in range(10):
            await channel.send(show_speed(columns=256 * 64))
        answers = 0
        with suppress(LinkDown):
            while True:
                await asyncio.wait_for(channel.receive(), 20)
                answers += 1
        assert answers < 20
        await head.hears(Heartbeat)
