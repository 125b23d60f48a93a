"""Pairs of connected endpoints, one for each kind of link, for tests that must hold on all of them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from muster.link.base import Connection, Endpoint
from muster.link.identity import Identity
from muster.link.iroh import IrohEndpoint
from muster.link.memory import MemoryNetwork


async def memory_endpoints() -> tuple[Endpoint, Endpoint]:
    network = MemoryNetwork()
    return network.endpoint("aa" * 32), network.endpoint("bb" * 32)


async def iroh_endpoints() -> tuple[Endpoint, Endpoint]:
    return (
        await IrohEndpoint.bind(Identity.generate(), host="127.0.0.1"),
        await IrohEndpoint.bind(Identity.generate(), host="127.0.0.1"),
    )


KINDS = {"memory": memory_endpoints, "iroh": iroh_endpoints}


@asynccontextmanager
async def connected(kind: str) -> AsyncIterator[tuple[Connection, Connection]]:
    """Both ends of one connection, dialled from the first."""
    near, far = await KINDS[kind]()
    try:
        there = await near.dial(far.address)
        yield there, await far.accept()
    finally:
        await near.close()
        await far.close()
