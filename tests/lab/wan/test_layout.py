"""Who stands where, and what cannot be laid out."""

import pytest

from muster.errors import InvalidRequest
from muster.lab.wan.layout import lay_out
from muster.spec.scenario import parse_scenario, shipped_scenario

THREE = shipped_scenario("three-regions-20-80ms")


def test_a_scenario_alone_gives_a_host_for_each_region() -> None:
    layout = lay_out(THREE)
    assert [(host.name, host.region, host.address) for host in layout.hosts] == [
        ("tokyo", "tokyo", "10.77.0.1"),
        ("seoul", "seoul", "10.77.0.2"),
        ("singapore", "singapore", "10.77.0.3"),
    ]
    assert str(layout.seat) == "10.77.0.254/24"


def test_hosts_may_have_names_of_their_own_and_share_a_region() -> None:
    layout = lay_out(THREE, ["ada:tokyo", "bob:tokyo", "seoul"], "10.1.0.0/28")
    assert [(host.name, host.region) for host in layout.hosts] == [
        ("ada", "tokyo"),
        ("bob", "tokyo"),
        ("seoul", "seoul"),
    ]
    assert layout.host("bob").address == "10.1.0.2"


@pytest.mark.parametrize(
    ("hosts", "network", "says"),
    [
        (["ada:lima"], "10.77.0.0/24", "'lima' is no region of the scenario three-regions-20-80ms; choose one of"),
        (["ada:tokio"], "10.77.0.0/24", "did you mean tokyo?"),
        (["tokyo", "tokyo"], "10.77.0.0/24", "Two hosts are called tokyo; write ada:tokyo"),
        (["Ada:tokyo"], "10.77.0.0/24", "'Ada' is no name for a host; use small letters"),
        ([f"h{number}:tokyo" for number in range(65)], "10.77.0.0/24", "at most 64 hosts, not 65"),
        (["tokyo"], "everywhere", "is no network; write one like 10.77.0.0/24"),
        (["tokyo", "seoul"], "10.77.0.0/30", "has too few addresses for 2 hosts; write a /24"),
    ],
)
def test_what_cannot_be_laid_out_is_said_with_a_remedy(hosts: list[str], network: str, says: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        lay_out(THREE, hosts, network)
    assert says in str(caught.value)


def test_a_pair_of_regions_that_the_scenario_forgot_is_named() -> None:
    gap = parse_scenario('name = "gap"\nregions = ["a", "b"]')
    with pytest.raises(InvalidRequest, match=r"gap says nothing of a and b; add a \[\[link\]\]"):
        lay_out(gap)
    assert lay_out(gap, ["a"])
    assert lay_out(
        parse_scenario(
            'name = "gap"\nregions = ["a", "b"]\n[elsewhere]\nlatency_s = 0.1\nbandwidth_bytes_per_s = 1000000'
        )
    )


def test_an_unknown_host_is_named_with_those_there_are() -> None:
    with pytest.raises(InvalidRequest, match=r"No host of the lab is called 'tokio'; did you mean tokyo\?"):
        lay_out(THREE).host("tokio")
