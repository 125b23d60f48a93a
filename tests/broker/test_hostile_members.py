"""Whatever a member or a stranger does on its connection, the head goes on."""

import asyncio
from contextlib import suppress

import pytest

from muster.broker.connections import BURST_MESSAGES
from muster.errors import LinkDown
from muster.wire.messages.membership import Welcome
from muster.wire.messages.transfer import Relay

pytestmark = pytest.mark.anyio


async def test_a_node_that_floods_the_head_is_put_out(pool):
    (node,) = await pool.join(500)
    with suppress(LinkDown):
        for _ in range(2 * BURST_MESSAGES):
            await node.control.send(node.claim)
    await asyncio.wait_for(node.connection.closed.wait(), 5)
    await pool.until(lambda: pool.state(1) == "gone")
    assert pool.service._saving._unsaved.qsize() <= 2


async def test_strangers_at_the_door_are_counted_and_members_are_not(pool, monkeypatch):
    monkeypatch.setattr("muster.broker.strangers.MAX_STRANGERS", 2)
    await pool.join(100, 100, 100)
    connections = [await pool.fake(n).endpoint.dial(pool.fake(n + 10).ticket.address) for n in (4, 5, 6)]
    await asyncio.wait_for(connections[2].closed.wait(), 5)
    assert not any(connection.closed.is_set() for connection in connections[:2])
    await connections[0].close()
    await pool.until(lambda: len(pool.service._connections._visitors) == 4)
    assert isinstance(await pool.fake(7).join(), Welcome)


async def test_a_crowd_of_strangers_keeps_no_machine_out(pool, monkeypatch):
    monkeypatch.setattr("muster.broker.strangers.MAX_FROM_ONE_SOURCE", 20)
    monkeypatch.setattr("muster.broker.strangers.PATIENCE_S", 0.2)
    (member,) = await pool.join(100)
    crowd = [await pool.fake(n).endpoint.dial(member.ticket.address) for n in range(10, 40)]
    await asyncio.wait_for(crowd[-1].closed.wait(), 5)
    await member.connection.close()
    assert isinstance(await pool.fake(1).join(), Welcome)  # was here before: it need not wait
    await asyncio.sleep(0.3)
    assert isinstance(await pool.fake(50).join(), Welcome)


async def test_a_member_with_two_carriers_cannot_end_the_head(pool):
    (node,) = await pool.join(100)
    first, second = await node.connection.open("relay"), await node.connection.open("relay")
    await second.close()
    with suppress(LinkDown):
        for _ in range(20):
            await first.send(Relay(source=node.id, target="f" * 64, channel="data/x/1"), b"a frame")
            await asyncio.sleep(0.01)
    assert not pool.service._tasks._over.is_set()
    assert isinstance(await pool.fake(2).join(), Welcome)
