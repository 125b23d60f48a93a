"""What is put leaves in order, a peer that does not read costs bounded memory, and a loss is told once."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from muster.errors import LinkDown, MusterError, ProtocolViolation
from muster.link.memory import MemoryNetwork
from muster.link.outbox import Outbox
from muster.wire.messages.transfer import Ping

pytestmark = pytest.mark.anyio


class Pipe:
    """A channel whose peer reads when the test says so."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.reads = asyncio.Event()
        self.error: MusterError | None = None
        self.closed = False

    async def send(self, message: Any, payload: Any = b"") -> None:
        await self.reads.wait()
        if self.error is not None:
            raise self.error
        self.sent.append(message.token)

    async def receive(self) -> Any:
        raise AssertionError

    async def close(self) -> None:
        self.closed = True


async def test_the_channel_ends_behind_the_last_word() -> None:
    pipe = Pipe()
    box = Outbox(pipe)
    for token in range(5):
        box.put(Ping(token=token))
    box.end()
    box.put(Ping(token=9))
    await asyncio.sleep(0)
    assert not pipe.closed
    pipe.reads.set()
    await box.ended()
    assert (pipe.sent, pipe.closed) == ([0, 1, 2, 3, 4], True)


async def test_closing_at_once_drops_what_waits() -> None:
    pipe = Pipe()
    box = Outbox(pipe)
    box.put(Ping(token=1))
    await asyncio.sleep(0)
    await box.close()
    assert (pipe.sent, pipe.closed) == ([], True)


def overflow(pipe: Pipe, box: Outbox) -> None:
    for token in range(20):
        box.put(Ping(token=token))


def lose(pipe: Pipe, box: Outbox) -> None:
    pipe.error = LinkDown("cut")
    pipe.reads.set()
    overflow(pipe, box)


@pytest.mark.parametrize(("breaks", "kind"), [(overflow, ProtocolViolation), (lose, LinkDown)])
async def test_a_loss_is_told_once_and_nothing_piles_up_behind_it(
    breaks: Callable[[Pipe, Outbox], None], kind: type[MusterError]
) -> None:
    pipe, told = Pipe(), list[MusterError]()
    box = Outbox(pipe, told.append, max_waiting=10 if breaks is overflow else 100)
    breaks(pipe, box)
    await asyncio.wait_for(box.ended(), 5)
    overflow(pipe, box)
    assert [type(error) for error in told] == [kind]
    assert pipe.sent == []
    assert box._queue.qsize() == 0
    await box.close()


async def test_it_works_on_a_real_channel() -> None:
    network = MemoryNetwork()
    here, there = network.endpoint("1" * 64), network.endpoint("2" * 64)
    connection = await here.dial(there.address)
    box = Outbox(await connection.open("data"))
    _, received = await (await there.accept()).accept()
    box.put(Ping(token=7), b"x")
    message, payload = await received.receive()
    assert (message, bytes(payload)) == (Ping(token=7), b"x")
    box.end()
    with pytest.raises(LinkDown):
        await received.receive()
    await here.close()
    await there.close()
