import pytest

from muster.errors import LinkDown
from muster.link.memory import MemoryNetwork
from muster.wire.messages.transfer import Ping

pytestmark = pytest.mark.anyio
A, B = "aa" * 32, "bb" * 32


async def test_a_cut_loses_what_is_under_way_and_keeps_the_pair_apart_until_it_heals() -> None:
    network = MemoryNetwork()
    a, b = network.endpoint(A), network.endpoint(B)
    there = await a.dial(b.address)
    here = await b.accept()
    near = await there.open("bulk")
    _, far = await here.accept()
    await near.send(Ping(token=1))
    network.cut(B, A)
    assert there.closed.is_set()
    assert here.closed.is_set()
    for channel in (near, far):
        with pytest.raises(LinkDown, match="connection lost"):
            await channel.receive()
        with pytest.raises(LinkDown):
            await channel.send(Ping(token=2))
    with pytest.raises(LinkDown):
        await a.dial(b.address)
    network.heal(A, B)
    await a.dial(b.address)
    await a.close()
    await b.close()


async def test_a_crash_is_seen_by_every_peer() -> None:
    network = MemoryNetwork()
    a, b = network.endpoint(A), network.endpoint(B)
    there = await a.dial(b.address)
    b.crash()
    assert there.closed.is_set()
    with pytest.raises(LinkDown):
        await there.accept()
    with pytest.raises(LinkDown):
        await a.dial(b.address)
    await network.endpoint(B).close()
    await a.close()


async def test_a_node_behind_a_nat_dials_out_but_cannot_be_dialled() -> None:
    network = MemoryNetwork()
    head, worker = network.endpoint(A), network.endpoint(B, reachable=False)
    await worker.dial(head.address)
    with pytest.raises(LinkDown, match="does not answer; check"):
        await head.dial(worker.address)
    await worker.close()
    await head.close()
