"""What a node tells the head of its links, and tells it again: a head may forget, and a measurement may fail."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from muster.errors import LinkDown
from muster.link.base import Endpoint
from muster.link.memory import MemoryNetwork
from muster.link.shaped import shape
from muster.link.tasks import Tasks
from muster.node.neighbours import Neighbours
from muster.node.reports import MAX_BANDWIDTHS, LinkReports
from muster.spec.scenario import Link, Scenario
from muster.wire.messages.every import AnyMessage
from muster.wire.messages.membership import PeerMeasured
from muster.wire.messages.transfer import Ping, Pong
from tests.virtual_clock import VirtualClockLoop

pytestmark = pytest.mark.anyio
A, B = "aa" * 32, "bb" * 32
FAR = Scenario(name="far", regions=("x",), elsewhere=Link(latency_s=0.02, bandwidth_bytes_per_s=1e7))


@pytest.fixture
def anyio_backend() -> object:
    return "asyncio", {"loop_factory": VirtualClockLoop}


async def answer(endpoint: Endpoint, deaf: list[bool]) -> None:
    """Pongs for every ping, except on the first so many channels, which are closed."""
    connection = await endpoint.accept()
    while True:
        _, channel = await connection.accept()
        if deaf.pop():
            await channel.close()
            continue
        with suppress(LinkDown):
            while True:
                message, _ = await channel.receive()
                assert isinstance(message, Ping)
                await channel.send(Pong(token=message.token))


@asynccontextmanager
async def reporting(deaf: list[bool]) -> AsyncIterator[tuple[LinkReports, Endpoint, list[AnyMessage]]]:
    """A node that tells of its link to another one, and what the head has heard."""
    network, heard, tasks = MemoryNetwork(), [], Tasks()
    near, far = (shape(network.endpoint(node), FAR, lambda node: None) for node in (A, B))
    neighbours = Neighbours(near)
    answering = asyncio.create_task(answer(far, deaf))
    yield LinkReports(neighbours, heard.append, tasks), far, heard
    answering.cancel()
    await asyncio.gather(answering, return_exceptions=True)
    await tasks.cancel()
    await neighbours.close()
    await far.close()


def bandwidths(heard: list[AnyMessage]) -> list[float]:
    assert all(isinstance(message, PeerMeasured) and message.peer == B for message in heard)
    return [message.bandwidth_bytes_per_s for message in heard if isinstance(message, PeerMeasured)]


async def test_a_head_that_has_forgotten_a_link_hears_of_all_of_it_again() -> None:
    async with reporting([False]) as (reports, far, heard):
        reports.reached(far.address, 0.04)
        await asyncio.sleep(10.0)
        assert bandwidths(heard) == [0.0, pytest.approx(1e7, rel=0.2)]
        reports.tell_again()
        assert bandwidths(heard)[2] == bandwidths(heard)[1]


async def test_a_measurement_that_came_to_nothing_is_made_at_the_next_chance() -> None:
    async with reporting([False, True]) as (reports, far, heard):
        for _ in range(2):
            reports.reached(far.address, 0.04)
            await asyncio.sleep(10.0)
        assert bandwidths(heard) == [0.0, 0.0, pytest.approx(1e7, rel=0.2)]


async def test_the_widths_that_are_remembered_are_few() -> None:
    async with reporting([]) as (reports, _, _):
        for number in range(MAX_BANDWIDTHS + 5):
            reports._say(f"{number:064x}", 0.01, measured=1e6)
        assert len(reports._bandwidths) == MAX_BANDWIDTHS
