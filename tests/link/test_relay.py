import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from muster.errors import FrameTooLarge, LinkDown, MalformedFrame, ProtocolViolation
from muster.link.base import Channel
from muster.link.memory import MemoryNetwork
from muster.link.relay import RelayCarrier, RelayHub
from muster.wire.messages.generate import Cancel
from muster.wire.messages.transfer import Ping, Relay

pytestmark = pytest.mark.anyio
HEAD, A, B = "00" * 32, "aa" * 32, "bb" * 32


class Pool:
    """A head and two workers that only dial out."""

    def __init__(self) -> None:
        self.members = {A, B}
        self.hub = RelayHub(self.members.__contains__)
        self.carriers: dict[str, RelayCarrier] = {}
        self.raw: dict[str, Channel] = {}
        self.serving: dict[str, asyncio.Task[None]] = {}


@asynccontextmanager
async def pool() -> AsyncIterator[Pool]:
    network, made = MemoryNetwork(), Pool()
    head = network.endpoint(HEAD)
    workers = [network.endpoint(node, reachable=False) for node in (A, B)]
    running = []
    for worker in workers:
        there = await worker.dial(head.address)
        here = await head.accept()
        made.raw[worker.node_id] = await there.open("relay")
        _, carrier = await here.accept()
        made.serving[worker.node_id] = asyncio.create_task(made.hub.serve(here.peer, carrier))
        made.carriers[worker.node_id] = RelayCarrier(worker.node_id, made.raw[worker.node_id])
        running.append(asyncio.create_task(made.carriers[worker.node_id].run()))
    try:
        yield made
    finally:
        for endpoint in (*workers, head):
            await endpoint.close()
        await asyncio.gather(*running, *made.serving.values(), return_exceptions=True)


async def test_frames_pass_through_the_head_in_order_and_both_ways() -> None:
    async with pool() as made:
        near = made.carriers[A].open(B, "data")
        for number in range(100):
            await near.send(Ping(token=number), bytes([number]) * 1000)
        far = await made.carriers[B].accept()
        assert (far.peer, far.name) == (A, "data")
        for number in range(100):
            message, payload = await far.receive()
            assert (message, bytes(payload)) == (Ping(token=number), bytes([number]) * 1000)
        await far.send(Ping(token=7))
        assert (await near.receive())[0] == Ping(token=7)


async def test_channels_of_the_same_name_do_not_mix() -> None:
    async with pool() as made:
        for number in (1, 2):
            await made.carriers[A].open(B, "data").send(Ping(token=number))
        for number in (1, 2):
            assert (await (await made.carriers[B].accept()).receive())[0] == Ping(token=number)


async def test_a_close_reaches_the_other_node_after_what_was_sent() -> None:
    async with pool() as made:
        near = made.carriers[A].open(B, "data")
        await near.send(Ping(token=1))
        await near.close()
        far = await made.carriers[B].accept()
        assert (await far.receive())[0] == Ping(token=1)
        for _ in range(2):
            with pytest.raises(LinkDown):
                await far.receive()
        with pytest.raises(LinkDown):
            await far.send(Ping(token=1))
        with pytest.raises(LinkDown):
            await near.send(Ping(token=1))


@pytest.mark.parametrize("gone", [A, B])
async def test_who_is_no_member_neither_sends_nor_receives(gone: str) -> None:
    async with pool() as made:
        made.members.discard(gone)
        near = made.carriers[A].open(B, "data")
        await near.send(Ping(token=1))
        async with asyncio.timeout(2):
            with pytest.raises(LinkDown):
                await near.receive()


async def test_a_node_that_left_is_a_link_that_is_down() -> None:
    async with pool() as made:
        await made.raw[B].close()
        await made.serving[B]
        near = made.carriers[A].open(B, "data")
        await near.send(Ping(token=1))
        async with asyncio.timeout(2):
            with pytest.raises(LinkDown):
                await near.receive()


@pytest.mark.parametrize("forged", [Relay(source=B, target=B, channel="data/x/1"), Cancel(epoch=1, request_id="r")])
async def test_a_node_that_speaks_in_anothers_name_loses_its_carrier(forged: Relay) -> None:
    async with pool() as made:
        await made.raw[A].send(forged, b"frame")
        with pytest.raises(ProtocolViolation, match="another's name"):
            await made.serving[A]
        with pytest.raises(LinkDown):
            await made.carriers[A].accept()


async def test_a_relayed_frame_is_held_to_its_channels_limits_and_shape() -> None:
    async with pool() as made:
        near = made.carriers[A].open(B, "control")
        with pytest.raises(FrameTooLarge):
            await near.send(Ping(token=1), b"x")
        await made.raw[A].send(Relay(source=A, target=B, channel="control/x/1"), b"no frame, but long enough")
        far = await made.carriers[B].accept()
        with pytest.raises(MalformedFrame):
            await far.receive()
        await made.raw[A].send(Relay(source=A, target=B, channel="gossip/x/1"), b"unknown channel")
        await near.send(Ping(token=2))
        assert (await (await made.carriers[B].accept()).receive())[0] == Ping(token=2)


async def test_an_unread_channel_slows_its_sender() -> None:
    async with pool() as made:
        near = made.carriers[A].open(B, "data")
        sent = 0

        async def flood() -> None:
            nonlocal sent
            while True:
                await near.send(Ping(token=sent), bytes(65536))
                sent += 1

        flooding = asyncio.create_task(flood())
        await asyncio.sleep(0.2)
        seen = sent
        assert seen < 200
        far = await made.carriers[B].accept()
        for number in range(seen):
            assert (await far.receive())[0] == Ping(token=number)
        flooding.cancel()


async def test_a_second_carrier_replaces_the_first_and_its_end_breaks_nothing() -> None:
    network = MemoryNetwork()
    head, worker = network.endpoint(HEAD), network.endpoint(A, reachable=False)
    hub, serving = RelayHub({A, B}.__contains__), []
    there = await worker.dial(head.address)
    here = await head.accept()
    raw: list[Channel] = []
    for _ in range(2):
        raw.append(await there.open("relay"))
        serving.append(asyncio.create_task(hub.serve(A, (await here.accept())[1])))
        await asyncio.sleep(0)
    await raw[1].close()
    with suppress(LinkDown):
        await raw[0].send(Relay(source=A, target=B, channel="data/x/1"), b"is anybody there?")
    async with asyncio.timeout(2):
        await asyncio.gather(*serving)
    for endpoint in (worker, head):
        await endpoint.close()


async def test_a_node_that_never_reads_does_not_hold_up_whoever_relays_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("muster.link.relay.STUCK_S", 0.2)
    network = MemoryNetwork()
    head, workers = network.endpoint(HEAD), [network.endpoint(node, reachable=False) for node in (A, B)]
    hub, raw, serving = RelayHub({A, B}.__contains__), {}, []
    for worker in workers:
        raw[worker.node_id] = await (await worker.dial(head.address)).open("relay")
        _, carrier = await (await head.accept()).accept()
        serving.append(asyncio.create_task(hub.serve(worker.node_id, carrier)))

    async def flood() -> None:
        while True:
            await raw[A].send(Relay(source=A, target=B, channel="data/x/1"), bytes(2**20))

    flooding = asyncio.create_task(flood())
    async with asyncio.timeout(5):
        answer, payload = await raw[A].receive()  # from the head: there is no such channel any more
    assert (answer, len(payload)) == (Relay(source=B, target=A, channel="data/x/1"), 0)
    flooding.cancel()
    for endpoint in (*workers, head):
        await endpoint.close()
    await asyncio.gather(flooding, *serving, return_exceptions=True)
