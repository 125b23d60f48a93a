"""Links of known speed, looked at by probes, on a clock that jumps."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from muster.errors import LinkDown, ProtocolViolation
from muster.link.base import Channel
from muster.link.memory import MemoryNetwork
from muster.link.shaped import shape
from muster.node.neighbours import Neighbours
from muster.node.probes import MAX_BYTES, PROBE_EVERY_S, Probes, greet, measure_bandwidth
from muster.spec.scenario import Link, Scenario
from muster.wire.messages.every import AnyMessage
from muster.wire.messages.transfer import Ping, Pong
from tests.virtual_clock import VirtualClockLoop

pytestmark = pytest.mark.anyio
A, B = "aa" * 32, "bb" * 32
Answer = Callable[[AnyMessage], AnyMessage]


@pytest.fixture
def anyio_backend() -> object:
    return "asyncio", {"loop_factory": VirtualClockLoop}


def pong(message: AnyMessage) -> AnyMessage:
    assert isinstance(message, Ping)
    return Pong(token=message.token)


@asynccontextmanager
async def link(latency_s: float, bandwidth: float, answer: Answer = pong) -> AsyncIterator[tuple[Channel, list[int]]]:
    """A channel over such a link to somebody who answers, and the sizes of what has arrived there."""
    scenario = Scenario(
        name="link", regions=("x",), elsewhere=Link(latency_s=latency_s, bandwidth_bytes_per_s=bandwidth)
    )
    network = MemoryNetwork()
    near, far = (shape(network.endpoint(node), scenario, lambda node: None) for node in (A, B))
    sizes: list[int] = []
    connection = await near.dial(far.address)
    channel = await connection.open("bulk")
    _, there = await (await far.accept()).accept()

    async def serve() -> None:
        while True:
            message, payload = await there.receive()
            sizes.append(len(payload))
            await there.send(answer(message))

    serving = asyncio.create_task(serve())
    yield channel, sizes
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    await near.close()
    await far.close()


@pytest.mark.parametrize("latency_s", [0.0005, 0.02, 0.15])
@pytest.mark.parametrize("bandwidth", [2e5, 1.25e6, 12.5e6, 125e6])
async def test_a_probe_finds_the_latency_and_the_bandwidth_of_a_link(latency_s: float, bandwidth: float) -> None:
    async with link(latency_s, bandwidth) as (channel, _):
        round_trip_s = await greet(channel, B)
        assert round_trip_s == pytest.approx(2 * latency_s, rel=0.1, abs=1e-3)
        assert await measure_bandwidth(channel, B, round_trip_s) == pytest.approx(bandwidth, rel=0.1)


async def test_a_probe_loads_a_slow_link_only_for_a_moment_and_a_fast_one_with_little() -> None:
    loop = asyncio.get_running_loop()
    for bandwidth in (1e6, 1e9):
        async with link(0.01, bandwidth) as (channel, sizes):
            started = loop.time()
            await measure_bandwidth(channel, B, 0.02)
            assert loop.time() - started < 0.6
            assert max(sizes) <= MAX_BYTES


async def test_a_round_trip_that_shrank_meanwhile_makes_no_endless_bandwidth() -> None:
    async with link(0.001, 1e9) as (channel, _):
        assert await measure_bandwidth(channel, B, round_trip_s=5.0) <= 10e9


async def test_somebody_who_does_not_answer_is_an_error_and_not_an_endless_wait() -> None:
    async with link(3600.0, 1e9) as (channel, _):
        with pytest.raises(LinkDown, match="does not answer"):
            await greet(channel, B)


async def test_a_wrong_answer_is_an_error() -> None:
    async with link(0.001, 1e9, answer=lambda message: Pong(token=99)) as (channel, _):
        with pytest.raises(ProtocolViolation, match="something else"):
            await greet(channel, B)


async def test_neighbours_know_how_far_away_those_are_that_they_are_connected_to() -> None:
    scenario = Scenario(name="link", regions=("x",), elsewhere=Link(latency_s=0.07, bandwidth_bytes_per_s=1e9))
    network = MemoryNetwork()
    near, far = (shape(network.endpoint(node), scenario, lambda node: None) for node in (A, B))
    neighbours = Neighbours(near)
    assert neighbours.round_trips_s() == {}
    await neighbours.open(far.address, "data")
    assert neighbours.round_trips_s() == {B: pytest.approx(0.14)}
    await far.close()
    await asyncio.sleep(1.0)
    assert neighbours.round_trips_s() == {}, "who is gone is not far away"
    await neighbours.close()
    await near.close()


def test_a_way_is_not_loaded_again_and_again() -> None:
    probes = Probes()
    assert [probes.take(peer, 5.0) for peer in (A, A, B)] == [True, False, True]
    assert not probes.take(A, 5.0 + PROBE_EVERY_S / 2)
    assert probes.take(A, 5.0 + PROBE_EVERY_S)
