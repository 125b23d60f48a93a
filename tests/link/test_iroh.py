import asyncio
import subprocess
import sys
import textwrap
from contextlib import suppress

import pytest

from muster.errors import InvalidRequest, LinkDown, MachineTrouble
from muster.link import iroh_connection
from muster.link.identity import Identity
from muster.link.iroh import IrohEndpoint
from muster.link.shaped import shape
from muster.spec.scenario import Link, Scenario
from muster.wire.frame import CHANNEL_LIMITS
from muster.wire.messages.base import Address
from muster.wire.messages.transfer import Ping

pytestmark = pytest.mark.anyio

PEER = """
    import asyncio, sys, time
    from muster.link.identity import Identity
    from muster.link.iroh import IrohEndpoint

    async def main():
        endpoint = await IrohEndpoint.bind(Identity.generate(), host="127.0.0.1")
        print(endpoint.node_id, *endpoint.address.direct, flush=True)
        connection = await endpoint.accept()
        name, channel = await connection.accept()
        message, payload = await channel.receive()
        await channel.send(message, payload)
        {then}
        await endpoint.close()

    asyncio.run(main())
"""


class Peer:
    """Another process with an endpoint that echoes one frame and does `then`."""

    def __init__(self, then: str) -> None:
        program = textwrap.dedent(PEER.format(then=then))
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-X", "dev", "-c", program],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    async def address(self) -> Address:
        assert self.process.stdout is not None
        node, *direct = (await asyncio.to_thread(self.process.stdout.readline)).split()
        return Address(node=node, direct=tuple(direct))

    def end(self) -> str:
        """What it wrote to stderr."""
        self.process.kill()
        return self.process.communicate(timeout=10)[1]


async def bind() -> IrohEndpoint:
    return await IrohEndpoint.bind(Identity.generate(), host="127.0.0.1")


async def test_a_busy_peer_counts_as_alive_and_a_killed_one_as_gone_within_three_seconds() -> None:
    peer, endpoint = Peer("time.sleep(60)"), await bind()
    try:
        connection = await endpoint.dial(await peer.address())
        channel = await connection.open("data")
        await channel.send(Ping(token=1))
        await channel.receive()
        patience_s = iroh_connection.PULSE_S * (iroh_connection.MISSED_PULSES + 1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(connection.closed.wait(), patience_s + 0.3)
        peer.process.kill()
        with pytest.raises(LinkDown, match=r"no sign of life for 2\.4 s"):
            await asyncio.wait_for(channel.receive(), patience_s + 0.2)
        assert connection.closed.is_set()
        with pytest.raises(LinkDown):
            await channel.send(Ping(token=2))
    finally:
        await endpoint.close()
        peer.end()


@pytest.mark.parametrize("then", ["pass", "return", "sys.exit(0)", "raise asyncio.CancelledError"])
async def test_a_process_ends_promptly_and_without_a_word_however_it_ends(then: str) -> None:
    peer, endpoint = Peer(then), await bind()
    try:
        connection = await endpoint.dial(await peer.address())
        channel = await connection.open("bulk")
        with suppress(LinkDown):  # on a starved machine the peer may count as gone; how it ends is the question here
            await channel.send(Ping(token=1), b"x" * 100_000)
            await channel.receive()
        await asyncio.to_thread(peer.process.wait, 30)
        assert "never retrieved" not in (said := peer.end())
        assert "Warning" not in said
        assert "Exception ignored" not in said
    finally:
        await endpoint.close()


async def test_a_node_is_dialled_at_the_address_that_it_gives() -> None:
    near, far = await bind(), await IrohEndpoint.bind(Identity.generate())
    connection = await near.dial(far.address, timeout_s=5)
    assert connection.peer == far.node_id
    await near.close()
    await far.close()


async def test_nobody_can_answer_in_anothers_name() -> None:
    near, impostor = await bind(), await bind()
    expected = Address(node=Identity.generate().node_id, direct=impostor.address.direct)
    with pytest.raises(LinkDown, match="another node answers there"):
        await near.dial(expected, timeout_s=5)
    await near.close()
    await impostor.close()


@pytest.mark.parametrize(
    "address",
    [
        Address(node="zz", direct=("127.0.0.1:9",)),
        Address(node=Identity.generate().node_id),
        Address(node=Identity.generate().node_id, direct=("nonsense",)),
        Address(node=Identity.generate().node_id, direct=("127.0.0.1:9",)),
    ],
)
async def test_an_address_where_nobody_is_fails_in_time_with_the_remedy(address: Address) -> None:
    endpoint = await bind()
    with pytest.raises(LinkDown, match=r"cannot be reached at .*; check"):
        await endpoint.dial(address, timeout_s=0.3)
    await endpoint.close()


async def test_a_port_that_is_taken_is_machine_trouble() -> None:
    endpoint = await bind()
    port = int(endpoint.address.direct[0].rpartition(":")[2])
    with pytest.raises(MachineTrouble, match=rf"{port} cannot be used \(Address already in use.*choose another port"):
        await IrohEndpoint.bind(Identity.generate(), port, host="127.0.0.1")
    await endpoint.close()


async def test_a_relay_that_is_no_url_is_named() -> None:
    with pytest.raises(InvalidRequest, match="'nonsense' is no relay URL"):
        await IrohEndpoint.bind(Identity.generate(), relay="nonsense")


async def test_a_node_tells_its_relay_and_its_outside_addresses() -> None:
    relay, outside = "https://relay.example.invalid/", "203.0.113.5:4000"
    endpoint = await IrohEndpoint.bind(Identity.generate(), relay=relay, external=[outside])
    assert endpoint.address.relay == relay
    assert outside in endpoint.address.direct
    await endpoint.close()


@pytest.mark.parametrize("name", [b"\x06gossip", b"\x00", b"\xff" + b"x" * 255, b"\x04\xff\xff\xff\xff"])
async def test_a_stream_with_a_strange_name_is_refused_and_harms_nothing(name: bytes) -> None:
    near, far = await bind(), await bind()
    connection = await near.dial(far.address)
    accepted = await far.accept()
    stream = await connection._connection.open_bi()
    await stream.send().write_all(name)
    await connection.open("data")
    assert (await accepted.accept())[0] == "data"
    await near.close()
    await far.close()


async def test_a_shaped_link_over_real_sockets_keeps_the_round_trip_that_was_asked_for() -> None:
    scenario = Scenario(
        name="far", regions=("here",), elsewhere=Link(latency_s=0.04, jitter_s=0.0, bandwidth_bytes_per_s=50e6)
    )
    near, far = [shape(await bind(), scenario, lambda node: None) for _ in range(2)]
    connection = await near.dial(far.address)
    channel = await connection.open("data")
    echo = (await (await far.accept()).accept())[1]
    loop, trips_s = asyncio.get_running_loop(), []
    for number in range(8):
        start_s = loop.time()
        await channel.send(Ping(token=number))
        await echo.send(*await echo.receive())
        await channel.receive()
        trips_s.append(loop.time() - start_s)
    assert 0.08 <= min(trips_s) < 0.12
    await near.close()
    await far.close()


async def test_every_channel_that_there_is_has_its_place_among_the_others() -> None:
    assert iroh_connection._PRIORITY.keys() == CHANNEL_LIMITS.keys()
