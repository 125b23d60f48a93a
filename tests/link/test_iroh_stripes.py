"""Channels of a far peer over several QUIC connections, on loopback that passes for far."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from iroh import iroh_ffi

from muster.errors import LinkDown
from muster.link import iroh_connection
from muster.link.base import Channel
from muster.link.identity import Identity
from muster.link.iroh import IrohEndpoint
from muster.link.iroh_connection import IrohConnection
from muster.link.iroh_stripes import MAX_STRIPES, STRIPES_ALPN, further_connections
from muster.wire.messages.transfer import Ping

FURTHER = 4


@pytest.fixture(autouse=True)
def loopback_is_far(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iroh_connection, "further_connections", lambda round_trip_s, addresses: FURTHER)


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[IrohEndpoint, IrohEndpoint, IrohConnection, IrohConnection]]:
    near, far = [await IrohEndpoint.bind(Identity.generate(), host="127.0.0.1") for _ in range(2)]
    dialled = await near.dial(far.address)
    accepted = await asyncio.wait_for(far.accept(), 10)
    yield near, far, dialled, accepted
    await dialled.close()
    await asyncio.gather(near.close(), far.close())


async def channels(opener: IrohConnection, other: IrohConnection, name: str) -> tuple[Channel, Channel]:
    channel = await opener.open(name)
    await channel.send(Ping(token=1), b"hello")
    said, accepted = await asyncio.wait_for(other.accept(), 10)
    assert said == name
    assert bytes((await accepted.receive())[1]) == b"hello"
    return channel, accepted


def further(connection: IrohConnection) -> int:
    return len(connection._further)


def test_a_channel_that_carries_much_uses_all_connections_in_both_directions() -> None:
    async def scene() -> None:
        async with pair() as (_, _, dialled, accepted):
            one, other = await channels(dialled, accepted, "data")
            assert further(dialled) == further(accepted) == FURTHER
            payload = bytes(range(256)) * 8192
            for sender, receiver in ((one, other), (other, one)):
                for _ in range(3):
                    sending = asyncio.create_task(sender.send(Ping(token=2), payload))
                    assert bytes((await asyncio.wait_for(receiver.receive(), 10))[1]) == payload
                    await sending
            used = [each.stats().udp_tx_bytes > 500_000 for each in dialled._further]
            assert used == [True] * FURTHER
            await one.close()
            with pytest.raises(LinkDown):
                await asyncio.wait_for(other.receive(), 10)

    asyncio.run(scene())


def test_a_channel_of_small_messages_stays_on_one() -> None:
    async def scene() -> None:
        async with pair() as (_, _, dialled, accepted):
            channel = await dialled.open("control")
            await channel.send(Ping(token=1))
            assert (await asyncio.wait_for(accepted.accept(), 10))[0] == "control"
            assert further(dialled) == further(accepted) == 0

    asyncio.run(scene())


def test_who_was_dialled_opens_over_what_the_dialler_made() -> None:
    async def scene() -> None:
        async with pair() as (_, _, dialled, accepted):
            await channels(accepted, dialled, "bulk")  # nothing further yet, and only the dialler can make it
            assert further(accepted) == 0
            await channels(dialled, accepted, "bulk")
            back, there = await channels(accepted, dialled, "data")
            await back.send(Ping(token=3), bytes(2_000_000))
            assert len((await asyncio.wait_for(there.receive(), 10))[1]) == 2_000_000

    asyncio.run(scene())


def test_a_further_connection_that_is_lost_takes_its_channels_and_no_others() -> None:
    async def scene() -> None:
        async with pair() as (_, _, dialled, accepted):
            one, other = await channels(dialled, accepted, "data")
            dialled._further[0].close(0, b"lost")
            with pytest.raises(LinkDown):
                await asyncio.wait_for(other.receive(), 10)
            with pytest.raises(LinkDown):
                await asyncio.wait_for(one.receive(), 10)
            await channels(dialled, accepted, "data")
            assert further(dialled) == FURTHER - 1

    asyncio.run(scene())


def test_all_connections_to_a_peer_end_together() -> None:
    async def scene() -> None:
        async with pair() as (_, _, dialled, accepted):
            await channels(dialled, accepted, "data")
            beside = list(accepted._further)
            await dialled.close()
            await asyncio.wait_for(asyncio.gather(*(each.closed() for each in beside)), 10)

    asyncio.run(scene())


def test_a_stranger_with_further_connections_alone_is_turned_away() -> None:
    async def scene() -> None:
        near, far = [await IrohEndpoint.bind(Identity.generate(), host="127.0.0.1") for _ in range(2)]
        target = iroh_ffi.EndpointAddr(iroh_ffi.EndpointId.from_string(far.node_id), None, list(far.address.direct))
        connection = await near._endpoint.connect(target, STRIPES_ALPN)
        assert "dial without stripes first" in await asyncio.wait_for(connection.closed(), 10)
        await asyncio.gather(near.close(), far.close())

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("round_trip_s", "count"), [(None, 0), (0.001, 0), (0.024, 0), (0.05, 9), (0.2, 39), (0.5, MAX_STRIPES - 1)]
)
def test_the_further_the_peer_the_more_connections(round_trip_s: float | None, count: int) -> None:
    assert further_connections(round_trip_s, ["203.0.113.7:4433", "[2001:db8::1]:1"]) == count


@pytest.mark.parametrize("address", ["127.0.0.1:5000", "[::1]:5000", "[::ffff:127.0.0.1]:5000"])
def test_this_machine_is_near_however_busy_it_is(address: str) -> None:
    assert further_connections(0.2, ["203.0.113.7:4433", address]) == 0
