"""Where a connection comes from: what one person has at hand counts as one place."""

import asyncio

import pytest
from iroh.iroh_ffi import IncomingAddr

from muster.link.identity import Identity
from muster.link.iroh import IrohEndpoint, source_of


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("203.0.113.7:4433", "203.0.113.7"),
        ("[::ffff:203.0.113.7]:1", "203.0.113.7"),
        ("[2001:db8:1:2:3:4:5:6]:1", "2001:db8:1:2::/64"),
        ("[2001:db8:1:2::ffff]:65535", "2001:db8:1:2::/64"),
        ("[fe80::1%3]:9", "fe80::/64"),
    ],
)
def test_an_address_is_known_by_the_part_that_is_somebodys_alone(address: str, source: str) -> None:
    assert source_of(IncomingAddr.IP(address)) == source


def test_a_connection_over_the_network_knows_its_source() -> None:
    async def scene() -> str:
        one, other = [await IrohEndpoint.bind(Identity.from_secret(bytes([n]) * 32), host="127.0.0.1") for n in (1, 2)]
        dialled = await one.dial(other.address)
        accepted = await asyncio.wait_for(other.accept(), 10)
        source = accepted.source
        await dialled.close()
        await asyncio.gather(one.close(), other.close())
        return source

    assert asyncio.run(scene()) == "127.0.0.1"
