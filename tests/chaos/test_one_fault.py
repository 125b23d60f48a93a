"""One thing goes wrong while many streams run, and every stream ends as if nothing had happened."""

import time
from asyncio import Event as AsyncEvent
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from threading import Event
from typing import Any

import pytest

from muster.model.load import load_stage
from muster.model.stage import Stage
from muster.model.weights import Weights
from muster.node.runners.base import RunnerVitals
from muster.node.runners.serve.first import FirstStage
from muster.spec.request import Request
from tests.chaos.streams import Streams
from tests.flows.live_pool import LivePool, Machine

Expected = list[list[int]]


@contextmanager
def hanging(pool: LivePool, machine: Machine) -> Iterator[None]:
    """No step of the stage that the machine holds now ends before the block does."""
    (held,) = machine.worker._stages._held.values()
    work = held.runner._engine if isinstance(held.runner, FirstStage) else held.runner._follower
    end, stage = Event(), work._stage
    run = stage.run

    def hang(*arguments: Any) -> Any:
        end.wait(120)
        return run(*arguments)

    stage.run = hang
    try:
        yield
    finally:
        end.set()


def swallow_steps(machine: Machine) -> None:
    """A later stage that takes steps in, computes nothing, and reports ever more of them as computed and sent."""
    (held,) = machine.worker._stages._held.values()
    runner: Any = held.runner
    reported = count(1000)

    async def compute(work: Any) -> Any:
        await AsyncEvent().wait()

    def boast(active_requests: int = 0, received: int = 0, sent: int = 0) -> RunnerVitals:
        steps = next(reported)
        return RunnerVitals(0, steps, 0.01, steps / 100, steps, steps)

    runner._thread.compute = compute
    runner._thread.vitals = boast


LONG = pytest.mark.chaos
"""Left to `make chaos`, so that the other tests stay quick."""


@pytest.mark.parametrize(
    "stage",
    [
        pytest.param(0, marks=LONG, id="first"),
        pytest.param(1, marks=LONG, id="middle"),
        pytest.param(3, marks=LONG, id="last"),
    ],
)
def test_a_machine_is_killed(pool: LivePool, wanted: list[Request], expected: Expected, stage: int) -> None:
    victim = pool.serving(stage)
    streams = Streams(pool, wanted)
    streams.until(0.3)
    pool.kill(victim)
    assert streams.result() == expected
    route = pool.until_serving(without=[victim])
    assert len(route.pipeline.stages) == 3
    assert pool.sessions.state.resubmissions >= 1


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The layers of every stage that is read from disk."""
    seen: list[tuple[int, int]] = []

    def load(weights: Weights, first: int, last: int, *more: Any) -> Stage:
        seen.append((first, last))
        return load_stage(weights, first, last, *more)

    monkeypatch.setattr("muster.node.loading.load_stage", load)
    return seen


@LONG
def test_a_machine_is_killed_and_a_standby_takes_its_layers(
    pool: LivePool, wanted: list[Request], expected: Expected, loads: list[tuple[int, int]]
) -> None:
    before = pool.until_serving().pipeline.stages
    pool.add_machine()
    pool.until(
        "the standby",
        lambda: (
            len(pool.service.status()["nodes"]) == 5
            and all(node["state"] in ("serving", "standby") for node in pool.service.status()["nodes"])
        ),
    )
    victim = pool.serving(2)
    loads.clear()
    streams = Streams(pool, wanted)
    streams.until(0.3)
    pool.kill(victim)
    assert streams.result() == expected
    after = pool.until_serving(without=[victim]).pipeline.stages
    assert [stage for stage in after if stage in before] == [stage for stage in before if stage.node != victim.id]
    assert loads == [(4, 6)], "the survivors have their layers in memory"


@LONG
def test_a_link_is_cut_and_heals(pool: LivePool, wanted: list[Request], expected: Expected) -> None:
    one, other = pool.serving(1), pool.serving(2)
    streams = Streams(pool, wanted)
    streams.until(0.3)

    async def cut() -> None:
        pool.network.cut(one.id, other.id)

    async def heal() -> None:
        pool.network.heal(one.id, other.id)

    pool.run(cut())
    streams.until(0.6)
    pool.run(heal())
    assert streams.result() == expected
    pool.until("all four again", lambda: len({node["id"] for node in pool.service.status()["nodes"]}) == 4)


@LONG
def test_the_link_between_a_machine_and_the_head_is_cut(
    pool: LivePool, wanted: list[Request], expected: Expected
) -> None:
    victim, head = pool.serving(1), pool.service._endpoint.node_id

    async def cut() -> None:
        pool.network.cut(victim.id, head)

    async def heal() -> None:
        pool.network.heal(victim.id, head)

    streams = Streams(pool, wanted)
    streams.until(0.3)
    pool.run(cut())
    assert streams.result() == expected
    pool.until_serving(without=[victim])
    pool.run(heal())
    pool.until_serving(stages=4)


@LONG
def test_a_machine_is_drained_by_the_operator(pool: LivePool, wanted: list[Request], expected: Expected) -> None:
    victim = pool.serving(1)
    streams = Streams(pool, wanted)
    streams.until(0.2)
    pool.run(pool.service.drain(victim.id))
    assert streams.result() == expected
    pool.until_serving(without=[victim])


@LONG
def test_a_machine_leaves_in_good_order(pool: LivePool, wanted: list[Request], expected: Expected) -> None:
    victim = pool.serving(3)
    streams = Streams(pool, wanted)
    streams.until(0.2)
    pool._loop.call_soon_threadsafe(victim.worker.drain)
    assert streams.result() == expected
    pool.until_serving(without=[victim])
    pool.until("the farewell", victim.task.done)
    pool.machines.remove(victim)
    assert victim.task.exception() is None


@LONG
def test_a_machine_is_banned(pool: LivePool, wanted: list[Request], expected: Expected) -> None:
    victim = pool.serving(0)
    streams = Streams(pool, wanted)
    streams.until(0.3)
    pool.run(pool.service.ban(victim.id))
    assert streams.result() == expected
    pool.until_serving(without=[victim])
    pool.until("its end", victim.task.done)
    pool.machines.remove(victim)
    assert "banned" in str(victim.task.exception())


def test_the_broker_is_restarted_with_its_store(
    pool: LivePool, wanted: list[Request], expected: Expected, loads: list[tuple[int, int]]
) -> None:
    before = pool.until_serving().pipeline.stages
    loads.clear()
    streams = Streams(pool, wanted)
    streams.until(0.3)
    pool.restart_broker()
    assert streams.result() == expected
    assert pool.until_serving().pipeline.stages == before
    assert loads == []


@LONG
def test_a_machine_joins(pool: LivePool, wanted: list[Request], expected: Expected) -> None:
    streams = Streams(pool, wanted)
    streams.until(0.2)
    pool.add_machine(max_layers=8)
    assert streams.result() == expected


@LONG
@pytest.mark.parametrize("stage", [pytest.param(0, id="first"), pytest.param(2, id="middle")])
def test_a_machine_hangs_while_its_heartbeats_go_on(
    pool: LivePool, wanted: list[Request], expected: Expected, stage: int
) -> None:
    victim = pool.serving(stage)
    streams = Streams(pool, wanted)
    streams.until(0.3)
    with hanging(pool, victim):
        assert streams.result() == expected
        assert victim.id not in pool.until_serving().pipeline.nodes()
        assert not victim.task.done()


@LONG
def test_a_machine_that_swallows_steps_and_boasts_of_them_is_left_out_within_ten_seconds(
    pool: LivePool, wanted: list[Request], expected: Expected
) -> None:
    victim = pool.serving(1)
    streams = Streams(pool, wanted)
    streams.until(0.3)
    swallow_steps(victim)
    began_s = time.monotonic()
    pool.until("a ring without it", lambda: (route := pool.route()) and victim.id not in route.pipeline.nodes())
    assert time.monotonic() - began_s < 10
    assert streams.result() == expected
