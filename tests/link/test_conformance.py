import asyncio
import contextlib
import os

import pytest

from muster.errors import FrameTooLarge, LinkDown, MalformedFrame, ProtocolViolation
from muster.link.base import Channel, Connection, Endpoint
from muster.link.stream import StreamChannel
from muster.wire.messages.membership import Goodbye
from muster.wire.messages.transfer import Blob, FetchBlob, Ping, Pong

pytestmark = pytest.mark.anyio
MIB = 1024 * 1024

Ends = tuple[Connection, Connection]
Endpoints = tuple[Endpoint, Endpoint]


async def channels(there: Connection, here: Connection, name: str = "bulk") -> tuple[Channel, Channel]:
    near = await there.open(name)
    opened, far = await here.accept()
    assert opened == name
    return near, far


async def write_raw(channel: Channel, data: bytes) -> None:
    """What a broken peer would send."""
    inner = getattr(channel, "_inner", channel)
    assert isinstance(inner, StreamChannel)
    await inner._stream.write([data])


async def test_both_ends_know_whom_they_talk_to(endpoints: Endpoints) -> None:
    near, far = endpoints
    there = await near.dial(far.address)
    here = await far.accept()
    assert (there.peer, here.peer) == (far.node_id, near.node_id)
    await near.close()
    await far.close()


async def test_frames_keep_their_order_in_both_directions(ends: Ends) -> None:
    there, here = ends
    near, far = await channels(there, here)

    async def talk(channel: Channel) -> list[tuple[int, int]]:
        heard = []
        for number in range(200):
            await channel.send(Ping(token=number), bytes(number))
            message, payload = await channel.receive()
            assert isinstance(message, Ping)
            heard.append((message.token, len(payload)))
        return heard

    for heard in await asyncio.gather(talk(near), talk(far)):
        assert heard == [(number, number) for number in range(200)]


async def test_a_payload_of_32_mib_arrives_unchanged(ends: Ends) -> None:
    there, here = ends
    near, far = await channels(there, here)
    payload = os.urandom(MIB) * 32
    sending = asyncio.create_task(near.send(Blob(digest="d", offset=0, total_bytes=len(payload)), payload))
    message, received = await far.receive()
    await sending
    assert message == Blob(digest="d", offset=0, total_bytes=len(payload))
    assert received == payload


async def test_a_sender_waits_for_a_slow_receiver(ends: Ends) -> None:
    there, here = ends
    near, far = await channels(there, here)
    sent = 0

    async def flood() -> None:
        nonlocal sent
        while sent < 64:
            await near.send(Ping(token=sent), bytes(MIB))
            sent += 1

    flooding = asyncio.create_task(flood())
    await asyncio.sleep(0.3)
    assert sent < 48, "the sender must feel that nobody reads"
    for number in range(64):
        message, _ = await far.receive()
        assert message == Ping(token=number)
    await flooding


async def test_one_channel_does_not_wait_behind_another(ends: Ends) -> None:
    there, here = ends
    bulk, unread = await channels(there, here, "bulk")
    control, far = await channels(there, here, "control")
    flooding = asyncio.create_task(bulk.send(Ping(token=0), bytes(32 * MIB)))
    await asyncio.sleep(0.05)
    await control.send(Goodbye())
    async with asyncio.timeout(2):
        assert (await far.receive())[0] == Goodbye()
    await unread.receive()
    await flooding


async def test_what_was_sent_before_a_close_arrives_and_then_the_peer_sees_the_end(ends: Ends) -> None:
    there, here = ends
    near, far = await channels(there, here)
    for number in range(20):
        await near.send(Ping(token=number), bytes(1000))
    await near.close()
    for number in range(20):
        assert (await far.receive())[0] == Ping(token=number)
    with pytest.raises(LinkDown, match=r"node .* is down"):
        await far.receive()
    with pytest.raises(LinkDown):
        await near.send(Ping(token=1))
    with pytest.raises(LinkDown):
        await near.receive()


async def test_what_was_sent_before_the_connection_closed_arrives(ends: Ends) -> None:
    there, here = ends
    near, far = await channels(there, here, "control")
    await near.send(Goodbye())
    await there.close("bye")
    assert (await far.receive())[0] == Goodbye()
    with pytest.raises(LinkDown):
        await far.receive()
    async with asyncio.timeout(2):
        await here.closed.wait()
    with pytest.raises(LinkDown, match="bye"):
        await here.accept()
    with pytest.raises(LinkDown):
        await there.open("data")


async def test_a_sender_notices_that_the_peer_closed(ends: Ends) -> None:
    there, here = ends
    near, far = await channels(there, here)
    await far.close()

    async def send_forever() -> None:
        while True:
            await near.send(Ping(token=1), bytes(MIB))
            await asyncio.sleep(0.01)

    async with asyncio.timeout(3):
        with pytest.raises(LinkDown):
            await send_forever()


async def test_closing_wakes_whoever_receives(ends: Ends) -> None:
    there, here = ends
    near, far = await channels(there, here)
    receiving = [asyncio.create_task(channel.receive()) for channel in (near, far)]
    await asyncio.sleep(0.05)
    await near.close()
    async with asyncio.timeout(2):
        for task in receiving:
            with pytest.raises(LinkDown):
                await task


async def test_a_bad_frame_closes_the_channel_and_nothing_else(ends: Ends) -> None:
    there, here = ends
    near, far = await channels(there, here)
    other_near, other_far = await channels(there, here, "data")
    await near.send(Ping(token=1))
    assert (await far.receive())[0] == Ping(token=1)
    await write_raw(near, b"this is no frame at all, sorry")
    with pytest.raises(MalformedFrame):
        await far.receive()
    with pytest.raises(ProtocolViolation):
        await far.receive()
    with pytest.raises(LinkDown):
        await far.send(Pong(token=1))
    async with asyncio.timeout(2):
        with pytest.raises(LinkDown):
            await near.receive()
    await other_near.send(Ping(token=2))
    assert (await other_far.receive())[0] == Ping(token=2)


async def test_too_large_a_frame_fails_at_the_sender_and_harms_nothing(ends: Ends) -> None:
    there, here = ends
    near, far = await channels(there, here, "control")
    with pytest.raises(FrameTooLarge):
        await near.send(Ping(token=1), b"x")
    await near.send(Ping(token=2))
    assert (await far.receive())[0] == Ping(token=2)


async def test_a_cancelled_receive_loses_nothing(ends: Ends) -> None:
    there, here = ends
    near, far = await channels(there, here)
    for number in range(20):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(far.receive(), 0.001)
        await near.send(Ping(token=number), bytes(70_000))
        assert (await far.receive())[0] == Ping(token=number)


async def test_cancelling_again_and_again_while_a_frame_comes_in_loses_nothing(ends: Ends) -> None:
    there, here = ends
    near, far = await channels(there, here)
    payload = os.urandom(MIB) * 8
    sending = asyncio.create_task(near.send(Ping(token=1), payload))
    while True:
        receiving = asyncio.create_task(far.receive())
        for _ in range(3):
            await asyncio.sleep(0)
        if receiving.done() or not receiving.cancel():
            break
        with contextlib.suppress(asyncio.CancelledError):
            await receiving
    assert (await receiving)[1] == payload
    await sending


async def test_a_cancelled_send_leaves_no_half_frame(ends: Ends) -> None:
    there, here = ends
    near, far = await channels(there, here)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(near.send(Ping(token=1), bytes(32 * MIB)), 0.02)
    last = asyncio.create_task(near.send(Ping(token=2)))
    heard = [(await far.receive())[0]]
    if heard != [Ping(token=2)]:
        heard.append((await far.receive())[0])
    assert heard[-1] == Ping(token=2)
    await last


async def test_fifty_channels_talk_at_once(ends: Ends) -> None:
    there, here = ends

    async def ask(number: int) -> None:
        channel = await there.open("bulk")
        for offset in range(10):
            await channel.send(FetchBlob(digest=str(number), offset=offset, length=5000))
            message, payload = await channel.receive()
            assert message == Blob(digest=str(number), offset=offset, total_bytes=number)
            assert bytes(payload) == bytes([number]) * 5000
        await channel.close()

    async def answer(channel: Channel) -> None:
        for _ in range(10):
            request, _payload = await channel.receive()
            assert isinstance(request, FetchBlob)
            number = int(request.digest)
            reply = Blob(digest=request.digest, offset=request.offset, total_bytes=number)
            await channel.send(reply, bytes([number]) * request.length)
        with pytest.raises(LinkDown):
            await channel.receive()

    async def serve() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(50):
                _, channel = await here.accept()
                group.create_task(answer(channel))

    async with asyncio.timeout(20):
        await asyncio.gather(serve(), *(ask(number) for number in range(50)))


async def test_a_channel_that_does_not_exist_cannot_be_opened(ends: Ends) -> None:
    there, _ = ends
    with pytest.raises(ProtocolViolation, match="no channel 'gossip'"):
        await there.open("gossip")


async def test_a_closed_endpoint_neither_accepts_nor_dials(endpoints: Endpoints) -> None:
    near, far = endpoints
    waiting = asyncio.create_task(far.accept())
    await asyncio.sleep(0.01)
    address = far.address
    await far.close()
    await far.close()
    with pytest.raises(LinkDown):
        await waiting
    with pytest.raises(LinkDown):
        await far.accept()
    with pytest.raises(LinkDown):
        await far.dial(near.address, timeout_s=0.2)
    with pytest.raises(LinkDown, match="check that it runs"):
        await near.dial(address, timeout_s=0.2)
    await near.close()
