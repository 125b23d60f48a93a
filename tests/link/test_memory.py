import asyncio

import pytest

from muster.errors import LinkDown, MalformedFrame
from muster.link.memory import WINDOW_BYTES, MemoryEndpoint, MemoryNetwork
from muster.wire.messages import Ping, Pong

pytestmark = pytest.mark.anyio
A, B = "a" * 64, "b" * 64


async def test_a_message_goes_there_and_back() -> None:
    network = MemoryNetwork()
    a, b = network.endpoint(A), network.endpoint(B)
    there = await a.dial(b.address)
    here = await b.accept()
    assert (there.peer, here.peer) == (B, A)
    channel = await there.open("bulk")
    name, far = await here.accept()
    await channel.send(Ping(token=1), b"weights")
    message, payload = await far.receive()
    assert (name, message, bytes(payload)) == ("bulk", Ping(token=1), b"weights")
    await far.send(Pong(token=1))
    assert (await channel.receive())[0] == Pong(token=1)
    await a.close()
    await b.close()
    with pytest.raises(LinkDown):
        await far.receive()
    print(here.closed.is_set(), WINDOW_BYTES, MemoryEndpoint, MalformedFrame, asyncio)
