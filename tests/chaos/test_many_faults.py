"""Faults by the dozen, drawn from a seed, on a pool that serves stream after stream. `make chaos`.

make chaos SEEDS=20            seeds 0 … 19
make chaos SEEDS=1 FIRST=17    the one that failed
"""

import asyncio
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from muster.lab.faults import play, scatter
from muster.spec.faults import Fault
from muster.spec.request import Request
from tests.chaos.streams import Streams
from tests.flows.live_pool import LivePool, Machine

pytestmark = pytest.mark.chaos
FIRST, COUNT = int(os.environ.get("CHAOS_FIRST", "0")), int(os.environ.get("CHAOS_SEEDS", "2"))
NUM_MACHINES, DURATION_S = 6, 12.0


class PoolWorld:
    """Implements `faults.World`. Nodes are numbered as they were when the faults were drawn."""

    def __init__(self, pool: LivePool) -> None:
        self._pool = pool
        self._machines: list[Machine] = list(pool.machines)

    async def leave(self, node: int) -> None:
        await self._pool._kill(self._machines[node])

    async def cut(self, one: int, other: int) -> None:
        self._pool.network.cut(self._machines[one].id, self._machines[other].id)

    async def heal(self, one: int, other: int) -> None:
        self._pool.network.heal(self._machines[one].id, self._machines[other].id)

    async def slow(self, node: int, factor: float) -> None:
        self._machines[node].worker.rehearse(factor)


@pytest.fixture
def large_pool(model_path: Path, tmp_path: Path) -> Iterator[LivePool]:
    with LivePool(tmp_path, str(model_path)) as pool:
        for _ in range(NUM_MACHINES - len(pool.machines)):
            pool.add_machine()
        pool.until_serving()
        yield pool
        pool.until_idle()
        assert pool.sessions.state.live == {}


@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", range(FIRST, FIRST + COUNT))
def test_whatever_happens_every_stream_ends_as_if_nothing_had(
    large_pool: LivePool, wanted: list[Request], expected: list[list[int]], seed: int
) -> None:
    faults = scatter(seed, NUM_MACHINES, DURATION_S, num_faults=10, spare=3)
    restarts = sorted(random.Random(seed).uniform(0, DURATION_S) for _ in range(seed % 2))
    print(f"seed {seed}: {faults}, the broker restarts at {restarts}")
    disturbing = asyncio.run_coroutine_threadsafe(disturb(large_pool, faults, restarts), large_pool._loop)
    rounds = 0
    while not disturbing.done() or not rounds:
        assert Streams(large_pool, wanted, f"{rounds}-").result(240) == expected
        rounds += 1
    disturbing.result(1)
    assert Streams(large_pool, wanted, "at last-").result(240) == expected


async def disturb(pool: LivePool, faults: list[Fault[int]], restarts: list[float]) -> None:
    async def restart() -> None:
        now_s = 0.0
        for at_s in restarts:
            await asyncio.sleep(at_s - now_s)
            now_s = at_s
            await pool._restart_broker()

    await asyncio.gather(play(faults, PoolWorld(pool)), restart())
