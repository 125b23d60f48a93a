"""Clients come in crowds and leave whenever they like; when the last is gone, nothing of them is left anywhere."""

import asyncio
from contextlib import aclosing
from random import Random
from typing import Any, cast

import pytest

from muster.errors import MusterError
from muster.node.runners.serve.first import FirstStage
from muster.spec.request import Priority, Request
from muster.spec.sampling import Sampling
from tests.flows.live_pool import LivePool, engines

SEED = 20_261_120


def a_request(number: int, random: Random) -> Request:
    shared = tuple(random.choices(range(3, 300), k=40)) if number % 3 else (5,) * 40
    sampling = Sampling(
        max_tokens=random.randint(1, 24),
        temperature=random.choice([0.0, 1.0]),
        seed=number,
        logprobs=random.choice([None, 2]),
        presence_penalty=random.choice([0.0, 0.5]),
        ignore_eos=True,
    )
    prompt = shared[: random.randint(1, 40)]
    return Request(f"crowd-{number}", prompt, sampling, priority=random.choice([*Priority]))


async def visit(pool: LivePool, number: int) -> str:
    """Ask, and perhaps leave: before the first token, after some, or after a while."""
    random = Random(f"{SEED}/{number}")
    await asyncio.sleep(random.random() * 2)
    request = a_request(number, random)
    leave_after = random.choice([None, None, 0, 1, random.randint(1, 24)])
    patience_s = random.choice([None, None, random.random() * 2])
    taken = 0
    try:
        async with asyncio.timeout(patience_s):
            async with aclosing(cast(Any, pool.sessions.generate(request))) as stream:
                async for progress in stream:
                    taken += len(progress.tokens)
                    if progress.finish is not None:
                        return "done"
                    if leave_after is not None and taken >= leave_after:
                        return "left"
    except TimeoutError:
        return "lost patience"
    except MusterError as error:
        return f"failed: {error}"
    return "broke off"


@pytest.mark.parametrize("clients", [30, pytest.param(200, marks=pytest.mark.chaos)])
def test_clients_who_leave_at_random_leave_nothing_behind(pool: LivePool, clients: int) -> None:
    async def crowd() -> list[str]:
        return await asyncio.gather(*(visit(pool, number) for number in range(clients)))

    ends = pool.run(crowd())
    counts = {end: ends.count(end) for end in set(ends)}
    assert set(counts) == {"done", "left", "lost patience"}, counts
    assert min(counts.values()) > clients / 20, counts
    pool.until_idle()
    for machine in pool.machines:
        for held in machine.worker._stages._held.values():
            if isinstance(held.runner, FirstStage):
                assert held.runner._replies == {}
                assert not held.runner._inbox
        for engine in engines(machine):
            stats = engine.stats()
            assert stats.available_pages == stats.num_pages
            assert (stats.running, stats.waiting, stats.in_flight) == (0, 0, 0)
    assert pool.sessions._inboxes == {}
    assert pool.sessions.state.live == {}
    assert pool.sessions.state.resubmissions == 0
