import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest

from muster.errors import InvalidRequest, LinkDown
from muster.link.base import Channel
from muster.link.memory import MemoryNetwork
from muster.link.shaped import ShapedConnection, ShapedEndpoint, load_scenario, shape
from muster.link.shaped_wire import Lane, Parcel, ShapedWire
from muster.spec.scenario import Link, Scenario, parse_scenario
from muster.wire.messages.transfer import Ping

pytestmark = pytest.mark.anyio
A, B = "aa" * 32, "bb" * 32
REGIONS = {A: "north", B: "south"}
FAR = """
name = "far"
regions = ["north", "south"]
[[link]]
between = ["north", "south"]
latency_s = 0.08
bandwidth_bytes_per_s = 10e6
back_bandwidth_bytes_per_s = 2e6
"""
JITTERY = FAR.replace("latency_s", "jitter_s = 0.04\nlatency_s")


class Pair:
    near_endpoint: ShapedEndpoint
    far_endpoint: ShapedEndpoint
    there: ShapedConnection
    here: ShapedConnection

    async def channels(self, name: str = "bulk") -> tuple[Channel, Channel]:
        near = await self.there.open(name)
        return near, (await self.here.accept())[1]


@asynccontextmanager
async def pair(scenario: str) -> AsyncIterator[Pair]:
    network, made = MemoryNetwork(), Pair()
    made.near_endpoint = shape(network.endpoint(A), parse_scenario(scenario), REGIONS.get)
    made.far_endpoint = shape(network.endpoint(B), parse_scenario(scenario), REGIONS.get)
    try:
        made.there = await made.near_endpoint.dial(made.far_endpoint.address)
        made.here = await made.far_endpoint.accept()
        yield made
    finally:
        await made.near_endpoint.close()
        await made.far_endpoint.close()


@pytest.fixture
def anyio_backend(virtual_clock: object) -> object:
    return virtual_clock


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_a_frame_takes_the_one_way_delay_and_an_echo_two() -> None:
    async with pair(FAR) as made:
        near, far = await made.channels()
        start = now()
        await near.send(Ping(token=1))
        assert now() == start, "sending does not wait for the far end"
        await far.receive()
        assert now() - start == pytest.approx(0.08, abs=0.001)
        await far.send(Ping(token=2))
        await near.receive()
        assert now() - start == pytest.approx(0.16, abs=0.001)
        assert made.there.round_trip_s() == pytest.approx(0.16)


async def test_the_delay_pipelines() -> None:
    async with pair(FAR) as made:
        near, far = await made.channels()
        start = now()
        for number in range(100):
            await near.send(Ping(token=number), bytes(1000))
        for number in range(100):
            assert (await far.receive())[0] == Ping(token=number)
        assert now() - start == pytest.approx(0.08 + 0.0103, abs=0.002)


@pytest.mark.parametrize(("forth", "seconds"), [(True, 0.3), (False, 1.5)])
async def test_each_direction_has_its_own_bandwidth(forth: bool, seconds: float) -> None:
    async with pair(FAR) as made:
        near, far = await made.channels()
        if not forth:
            near, far = far, near
        start = now()
        sending = asyncio.create_task(near.send(Ping(token=1), bytes(3_000_000)))
        await far.receive()
        await sending
        assert now() - start == pytest.approx(0.08 + seconds, abs=0.002)


async def test_two_channels_share_the_wire_and_a_heartbeat_overtakes_weights() -> None:
    async with pair(FAR) as made:
        bulk, far_bulk = await made.channels("bulk")
        control, far_control = await made.channels("control")
        start = now()
        sending = asyncio.create_task(bulk.send(Ping(token=1), bytes(5_000_000)))
        await asyncio.sleep(0.05)
        await control.send(Ping(token=2))
        await far_control.receive()
        assert now() - start == pytest.approx(0.05 + 0.08, abs=0.005)
        await far_bulk.receive()
        assert now() - start == pytest.approx(0.5 + 0.08, abs=0.002)
        await sending


async def test_jitter_delays_but_never_reorders() -> None:
    async with pair(JITTERY) as made:
        near, far = await made.channels()
        delays = []
        for number in range(15):
            start = now()
            await near.send(Ping(token=number))
            await far.receive()
            delays.append(now() - start)
        assert min(delays) >= 0.08
        assert 0.01 < max(delays) - min(delays) <= 0.04
        for number in range(50):
            await near.send(Ping(token=number))
        for number in range(50):
            assert (await far.receive())[0] == Ping(token=number)


async def test_a_loss_costs_about_a_round_trip() -> None:
    link = Link(latency_s=0.05, bandwidth_bytes_per_s=1e9, loss=0.1)
    line, due = ShapedWire(lambda: link, Random(7)), list[float]()
    running = asyncio.create_task(line.run())
    for _ in range(2000):
        line.put(Lane(), Parcel(1000, now(), due.append))
    await asyncio.sleep(0.05)
    running.cancel()
    assert len(due) == 2000
    # 2000 frames take 2 ms to leave; then 50 ms, or 150 when lost once, or 250 when the second try is lost too
    assert {round(at - 0.0011, 2) for at in due} >= {0.05, 0.15, 0.25}
    assert all((at % 0.1) == pytest.approx(0.051, abs=0.0011) for at in due)
    assert sum(at > 0.1 for at in due) / len(due) == pytest.approx(0.1, abs=0.03)


async def test_waiting_takes_no_turns_of_the_loop() -> None:
    async with pair(FAR) as made:
        near, far = await made.channels()
        loop, turns = asyncio.get_running_loop(), 0
        run_once = loop._run_once  # type: ignore[attr-defined]

        def counted() -> None:
            nonlocal turns
            turns += 1
            run_once()

        loop._run_once = counted  # type: ignore[attr-defined]
        await near.send(Ping(token=1))
        await far.receive()
        assert turns < 40, "the loop must sleep while the frame travels"


async def test_a_slow_reader_holds_the_sender_back() -> None:
    async with pair(FAR.replace("10e6", "1e9").replace("0.08", "0.001")) as made:
        near, _far = await made.channels()
        sent = 0

        async def flood() -> None:
            nonlocal sent
            while True:
                await near.send(Ping(token=sent), bytes(1_000_000))
                sent += 1

        flooding = asyncio.create_task(flood())
        await asyncio.sleep(0.3)
        assert sent < 16
        flooding.cancel()


async def test_a_cut_by_hand_takes_the_link_down_until_it_heals() -> None:
    async with pair(FAR) as made:
        near, far = await made.channels()
        made.near_endpoint.cut(B)
        async with asyncio.timeout(2):
            for channel in (near, far):
                with pytest.raises(LinkDown):
                    await channel.receive()
            await made.there.closed.wait()
        with pytest.raises(LinkDown):
            await near.send(Ping(token=1))
        with pytest.raises(LinkDown, match="cut"):
            await made.near_endpoint.dial(made.far_endpoint.address)
        made.near_endpoint.heal(B)
        await made.near_endpoint.dial(made.far_endpoint.address)


async def test_a_cut_of_the_scenario_comes_and_goes_by_its_timetable() -> None:
    cut = FAR + '[[cut]]\nbetween = ["north", "south"]\nstart_s = 0.4\nend_s = 0.7\n'
    async with pair(cut) as made:
        start = now()
        near, far = await made.channels()
        await near.send(Ping(token=1))
        await far.receive()
        async with asyncio.timeout(2):
            with pytest.raises(LinkDown):
                await far.receive()
        assert now() - start < 0.6
        with pytest.raises(LinkDown):
            await made.near_endpoint.dial(made.far_endpoint.address)
        await asyncio.sleep(0.5)
        await made.near_endpoint.dial(made.far_endpoint.address)


async def test_a_region_that_is_learnt_later_takes_effect() -> None:
    regions: dict[str, str] = {}
    scenario = Scenario(
        name="s",
        regions=("north",),
        inside=Link(latency_s=0.1, bandwidth_bytes_per_s=1e6),
        elsewhere=Link(latency_s=0.0, bandwidth_bytes_per_s=1e6),
    )
    network = MemoryNetwork()
    a, b = (shape(network.endpoint(node), scenario, regions.get) for node in (A, B))
    there = await a.dial(b.address)
    assert there.round_trip_s() == 0.0
    regions.update({A: "north", B: "north"})
    assert there.round_trip_s() == pytest.approx(0.2)
    await a.close()
    await b.close()


def test_a_scenario_is_found_by_name_or_by_path(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(FAR)
    assert load_scenario(str(tmp_path / "mine.toml")).name == "far"
    assert load_scenario("home-uplinks").name == "home-uplinks"
    with pytest.raises(InvalidRequest, match="cannot be read"):
        load_scenario(str(tmp_path / "yours.toml"))
    with pytest.raises(InvalidRequest, match="no scenario 'nowhere'"):
        load_scenario("nowhere")
