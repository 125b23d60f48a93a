"""Faults as words reach real endpoints: a cut link answers nobody until it is healed."""

import anyio
import pytest

from muster.errors import LinkDown
from muster.lab.faults import play
from muster.lab.world import EndpointWorld
from muster.link.base import Endpoint
from muster.link.memory import MemoryNetwork
from muster.link.shaped import shape
from muster.spec.faults import CutLink, Leave, Slow
from muster.spec.scenario import Scenario

QUICK = Scenario(name="quick", regions=("here",), elsewhere={"latency_s": 0.0, "bandwidth_bytes_per_s": 1e9})


async def reaches(source: Endpoint, target: Endpoint) -> bool:
    try:
        connection = await source.dial(target.address, timeout_s=1)
    except LinkDown:
        return False
    await connection.close()
    return True


def test_a_cut_link_answers_nobody_until_it_is_healed() -> None:
    slowed: dict[int, float] = {}

    async def scene() -> None:
        network = MemoryNetwork()
        endpoints = [shape(network.endpoint(f"{i}" * 64), QUICK, {}.get) for i in range(3)]
        world = EndpointWorld(endpoints, slow=slowed.__setitem__)
        assert await reaches(endpoints[0], endpoints[1])
        await play([CutLink(0, 1, 0.0), Slow(2, 0.01, factor=0.5)], world)
        assert not await reaches(endpoints[0], endpoints[1])
        assert not await reaches(endpoints[1], endpoints[0])
        assert await reaches(endpoints[0], endpoints[2])
        await play([CutLink(0, 1, 0.0, until_s=0.01), Leave(2, 0.01)], world)
        assert await reaches(endpoints[0], endpoints[1])
        assert not await reaches(endpoints[0], endpoints[2])
        for endpoint in endpoints[:2]:
            await endpoint.close()

    anyio.run(scene)
    assert slowed == {2: 0.5}


def test_what_leaving_means_can_be_handed_in() -> None:
    gone: list[int] = []

    async def vanish(node: int) -> None:
        gone.append(node)

    anyio.run(play, [Leave(4, 0.0)], EndpointWorld([], leave=vanish))
    assert gone == [4]


def test_an_unknown_fault_is_a_mistake_of_the_test() -> None:
    with pytest.raises(IndexError):
        anyio.run(play, [CutLink(0, 1, 0.0)], EndpointWorld([]))
