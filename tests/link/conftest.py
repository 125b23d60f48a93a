"""Pairs of endpoints, one for each kind of link, for tests that must hold on all of them."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from muster.link.base import Connection, Endpoint
from muster.link.identity import Identity
from muster.link.iroh import IrohEndpoint
from muster.link.memory import MemoryNetwork
from muster.link.shaped import shape
from muster.spec.scenario import Link, Scenario
from tests.virtual_clock import VirtualClockLoop


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def memory_endpoints() -> tuple[Endpoint, Endpoint]:
    network = MemoryNetwork()
    return network.endpoint("aa" * 32), network.endpoint("bb" * 32)


async def iroh_endpoints() -> tuple[Endpoint, Endpoint]:
    return (
        await IrohEndpoint.bind(Identity.generate(), host="127.0.0.1"),
        await IrohEndpoint.bind(Identity.generate(), host="127.0.0.1"),
    )


FAR = Scenario(
    name="far",
    regions=("here", "there"),
    elsewhere=Link(latency_s=0.005, jitter_s=0.001, bandwidth_bytes_per_s=250e6, loss=0.0001),
)


async def shaped(pair: Awaitable[tuple[Endpoint, Endpoint]]) -> tuple[Endpoint, Endpoint]:
    near, far = await pair
    return shape(near, FAR, lambda node: None), shape(far, FAR, lambda node: None)


KINDS: dict[str, Callable[[], Awaitable[tuple[Endpoint, Endpoint]]]] = {
    "memory": memory_endpoints,
    "iroh": iroh_endpoints,
    "shaped memory": lambda: shaped(memory_endpoints()),
    "shaped iroh": lambda: shaped(iroh_endpoints()),
}


@pytest.fixture(params=KINDS)
async def endpoints(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Endpoint, Endpoint]]:
    near, far = await KINDS[request.param]()
    yield near, far
    await near.close()
    await far.close()


@pytest.fixture
async def ends(endpoints: tuple[Endpoint, Endpoint]) -> tuple[Connection, Connection]:
    """Both ends of one connection, dialled from the first."""
    near, far = endpoints
    there = await near.dial(far.address)
    return there, await far.accept()


@pytest.fixture
def virtual_clock() -> tuple[str, dict[str, object]]:
    """An `anyio_backend` whose clock jumps."""
    return "asyncio", {"loop_factory": VirtualClockLoop}
