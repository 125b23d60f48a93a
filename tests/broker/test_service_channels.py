"""What members fetch, probe and relay through the broker besides their control channel."""

import asyncio

import pytest

from muster.errors import LinkDown
from muster.wire.messages.membership import Refused
from muster.wire.messages.transfer import Blob, BlobUnknown, FetchBlob, Ping, Pong, Relay
from tests.broker.actors import HEAD, node_id
from tests.broker.live_broker import BLOB

pytestmark = pytest.mark.anyio


async def test_members_fetch_blobs_in_ranges_and_probe_the_link(pool):
    (node,) = await pool.join(500)
    bulk = await node.connection.open("bulk")
    await bulk.send(FetchBlob(digest="ab" * 32, offset=100, length=1000))
    message, payload = await bulk.receive()
    assert message == Blob(digest="ab" * 32, offset=100, total_bytes=len(BLOB))
    assert bytes(payload) == BLOB[100:1100]
    await bulk.send(FetchBlob(digest="cd" * 32, offset=0, length=10))
    assert (await bulk.receive())[0] == BlobUnknown(digest="cd" * 32)
    await bulk.send(Ping(token=5), b"x" * 1000)
    assert (await bulk.receive())[0] == Pong(token=5)


async def test_the_head_opens_channels_to_members_on_the_connections_that_they_dialled(pool):
    (node,) = await pool.join(500)
    channel = await pool.service.open(node.id, "data")
    await channel.send(Ping(token=3))
    name, there = await node.connection.accept()
    assert name == "data"
    assert (await there.receive())[0] == Ping(token=3)
    assert pool.service.region_of(node.id) == "here"
    assert pool.service.region_of(HEAD) == ""
    with pytest.raises(LinkDown):
        await pool.service.open(node_id(7), "data")


@pytest.mark.parametrize(
    "bad", [{"digest": "../../etc/passwd", "offset": 0, "length": 1}, {"digest": "ab" * 32, "offset": -1, "length": 1}]
)
async def test_an_impossible_blob_ends_the_connection(pool, bad):
    (node,) = await pool.join(500)
    bulk = await node.connection.open("bulk")
    await bulk.send(FetchBlob(**bad))
    await asyncio.wait_for(node.connection.closed.wait(), 5)


async def test_a_stranger_gets_no_blobs(pool):
    node = pool.fake(1)
    assert isinstance(await node.join(secret=b"x" * 32), Refused)
    bulk = await node.connection.open("bulk")
    await bulk.send(FetchBlob(digest="ab" * 32, offset=0, length=10))
    with pytest.raises(LinkDown):
        await bulk.receive()


async def test_the_head_relays_between_members(pool):
    first, second = await pool.join(100, 100)
    here, there = await first.connection.open("relay"), await second.connection.open("relay")
    await there.send(Relay(source=second.id, target=first.id, channel="data/x/1"), b"hello?")
    while True:  # the first frames may come before both carriers are known; each unknown target is answered
        await here.send(Relay(source=first.id, target=second.id, channel="data/x/1"), b"a frame")
        try:
            message, payload = await asyncio.wait_for(there.receive(), 0.5)
        except TimeoutError:
            continue
        if payload:
            break
    assert (message.source, bytes(payload)) == (first.id, b"a frame")
