"""Pool files: what they may say, and what is said to those who got them wrong."""

from dataclasses import replace
from pathlib import Path

import pytest

from muster.errors import InvalidRequest
from muster.spec.devices import device_facts
from muster.spec.pool import DEFAULT_LINK, LinkSpeed, Market
from muster.spec.pool_file import parse_pool
from muster.spec.reserve import LEAST_BYTES, MAC_SHARE, usable_bytes

TWO_SITES = """
name = "two-sites"

[[machine]]
name = "rack"
device = "rtx-4090"
count = 2
devices = 4
region = "oregon"
market = "spot"

[[machine]]
name = "attic"
kind = "cpu"
memory_bytes = 8e9
flops_per_s = { float32 = 2e11 }
region = "tokyo"
price_per_hour = 0.05
watts = 60

[[link]]
between = ["oregon", "tokyo"]
latency_s = 0.096
bandwidth_bytes_per_s = 65e6
back_bandwidth_bytes_per_s = 12e6

[inside]
latency_s = 0.001
bandwidth_bytes_per_s = 125e6

[market]
token_price_per_million = 0.9
"""

PAIR = """
[[machine]]
name = "a"
device = "t4"
region = "north"

[[machine]]
name = "b"
device = "t4"
region = "south"
"""


def test_counts_islands_regions_and_prices_are_read() -> None:
    pool = parse_pool(TWO_SITES)
    assert [node.id for node in pool.nodes] == ["rack-1", "rack-2", "attic"]
    rack, _, attic = pool.nodes
    facts = device_facts("rtx-4090")
    assert rack.device == replace(facts.device(), memory_bytes=usable_bytes("cuda", facts.memory_bytes))
    assert rack.device_count == 4
    assert rack.inside is not None
    assert rack.inside.bandwidth_bytes_per_s == device_facts("rtx-4090").peer_bandwidth_bytes_per_s
    assert rack.price_per_hour == pytest.approx(4 * 0.4)
    assert rack.watts == 4 * 450
    assert (attic.device.kind, attic.device.memory_bytes, attic.region) == ("cpu", 8_000_000_000, "tokyo")
    assert (attic.device_count, attic.inside, attic.price_per_hour, attic.watts) == (1, None, 0.05, 60)
    assert pool.market == Market(token_price_per_million=0.9)
    assert pool.name == "two-sites"


def test_links_join_regions_in_each_direction() -> None:
    pool = parse_pool(TWO_SITES)
    assert pool.link("rack-1", "attic") == LinkSpeed(0.096, 65e6)
    assert pool.link("attic", "rack-2") == LinkSpeed(0.096, 12e6)
    assert pool.link("rack-1", "rack-2") == LinkSpeed(0.001, 125e6)
    assert len(pool.links) == 6
    assert set(pool.links) == {(a.id, b.id) for a in pool.nodes for b in pool.nodes if a != b}


def test_figures_of_a_table_device_can_be_replaced() -> None:
    (node,) = parse_pool('[[machine]]\ndevice = "l4"\nmemory_bytes = 10e9\ndisk_bandwidth_bytes_per_s = 3e9').nodes
    assert (node.device.memory_bytes, node.device.disk_bandwidth_bytes_per_s) == (10_000_000_000, 3e9)
    assert node.device.flops_per_s == device_facts("l4").flops_per_s
    assert node.name == node.id == "l4"


def test_machines_without_names_are_told_apart() -> None:
    text = '[[machine]]\ndevice = "l4"\n[[machine]]\ndevice = "l4"\ncount = 2\n[elsewhere]\n'
    pool = parse_pool(text + "latency_s = 0.1\nbandwidth_bytes_per_s = 1e6")
    assert [node.name for node in pool.nodes] == ["l4-a", "l4-b-1", "l4-b-2"]
    assert pool.link("l4-a", "l4-b-2") == LinkSpeed(0.1, 1e6)


def test_the_more_particular_link_wins() -> None:
    speeds = [
        '[[link]]\nbetween = ["rack", "attic"]\nlatency_s = 0.05\nbandwidth_bytes_per_s = 2e6',
        '[[link]]\nbetween = ["rack-2", "attic"]\nlatency_s = 0.01\nbandwidth_bytes_per_s = 3e6',
        '[[link]]\nbetween = ["rack", "rack"]\nlatency_s = 0.0001\nbandwidth_bytes_per_s = 1e9',
    ]
    pool = parse_pool(TWO_SITES.replace("[inside]", "\n".join([*speeds, "[inside]"])))
    assert pool.link("rack-1", "attic") == LinkSpeed(0.05, 2e6)
    assert pool.link("attic", "rack-2") == LinkSpeed(0.01, 3e6)
    assert pool.link("rack-1", "rack-2") == LinkSpeed(0.0001, 1e9)


def test_a_matrix_is_read_by_rows_from_and_columns_to() -> None:
    matrix = """
[matrix]
of = ["a", "b"]
latency_s = [[0, 0.1], [0.2, 0]]
bandwidth_bytes_per_s = [[0, 1e6], [2e6, 0]]
"""
    pool = parse_pool(PAIR + matrix)
    assert pool.link("a", "b") == LinkSpeed(0.1, 1e6)
    assert pool.link("b", "a") == LinkSpeed(0.2, 2e6)
    assert pool.link("a", "nobody") == pool.default_link == DEFAULT_LINK


def test_a_shipped_table_of_links_serves_any_of_its_regions() -> None:
    text = PAIR.replace("north", "tokyo").replace("south", "sydney")
    pool = parse_pool('links = "ten-cities"\n' + text)
    assert pool.link("a", "b") == LinkSpeed(0.1, pytest.approx(0.761e9 / 8))
    closer = '[[link]]\nbetween = ["tokyo", "sydney"]\nlatency_s = 0.05\nbandwidth_bytes_per_s = 1e6\n'
    assert parse_pool('links = "ten-cities"\n' + text + closer).link("b", "a") == LinkSpeed(0.05, 1e6)


def test_the_example_of_the_page_is_read() -> None:
    page = (Path(__file__).parents[2] / "docs/pools.md").read_text("utf-8")
    example = page.split("```toml\n")[1].split("```")[0]
    pool = parse_pool(example)
    assert [node.name for node in pool.nodes] == ["rack-1", "rack-2", "attic"]
    assert pool.link("rack-2", "attic") == LinkSpeed(0.11, 12.5e6)
    assert pool.link("attic", "rack-1") == LinkSpeed(0.11, 2.5e6)
    assert pool.link("rack-1", "rack-2") == LinkSpeed(0.005, 250e6), "inside oregon, from the table of links"
    matrix = page.split("```toml\n")[2].split("```")[0]
    assert parse_pool(example + matrix).link("rack-1", "rack-2") == LinkSpeed(0.005, 250e6)


FIGURES = """[[machine]]
kind = "cuda"
memory_bytes = 8e9
flops_per_s = { float16 = 1e12 }
memory_bandwidth_bytes_per_s = 1e11
"""
LINK = '\n[[link]]\nbetween = ["north", "south"]\nlatency_s = 0.1\nbandwidth_bytes_per_s = 1e6\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (PAIR, r"how a \(north\) reaches b \(south\); add a \[\[link\]\]"),
        (PAIR.replace("south", "north"), r"how a \(north\) reaches b \(north\); add \[inside\]"),
        (PAIR.replace('"t4"', '"t5"') + LINK, r"Device 't5' is not in the table.*did you mean t4"),
        (PAIR.replace('"b"', '"a"') + LINK, r"Two machines.* are called 'a'"),
        (PAIR + LINK.replace("1e6", "0"), r"'bandwidth_bytes_per_s' in \[\[link\]\] 1 must be 1 or more, not 0"),
        (PAIR + LINK.replace("1e6", "1e-300"), r"must be 1 or more, not 1e-300"),
        (PAIR + LINK.replace("1e6", "-5"), r"must be 1 or more, not -5"),
        (PAIR + LINK.replace("1e6", "inf"), r"must be a finite number"),
        (PAIR + LINK.replace("0.1", "-0.1"), r"'latency_s' in \[\[link\]\] 1 must be 0 or more"),
        (PAIR + LINK.replace("0.1", '"slow"'), r"'latency_s' in \[\[link\]\] 1 must be a number, not 'slow'"),
        (PAIR + LINK.replace("south", "soth"), r"'soth', which is neither.*did you mean south"),
        (PAIR + LINK + LINK, r"two \[\[link\]\] tables join the same two"),
        (PAIR + LINK + "\n[elswhere]\n", r"unknown key 'elswhere'"),
        (PAIR.replace('device = "t4"', 'devise = "t4"') + LINK, r"unknown key 'devise' in \[\[machine\]\] 1"),
        (PAIR.replace('device = "t4"', "count = 2") + LINK, r"neither a device nor a kind"),
        (
            PAIR.replace('device = "t4"', 'device = "t4"\ncount = 0') + LINK,
            r"'count' in \[\[machine\]\] 1 must be 1 or",
        ),
        (
            PAIR.replace('device = "t4"', 'device = "t4"\ncount = 1.5') + LINK,
            r"'count'.* must be a whole number, not 1.5",
        ),
        (PAIR.replace('device = "t4"', 'device = "t4"\ndevices = true') + LINK, r"a whole number, not true"),
        (PAIR.replace('device = "t4"', 'device = "t4"\nmemory_bytes = "2e9"') + LINK, r"a number, not '2e9'"),
        (PAIR.replace('device = "t4"', 'device = "t4"\nmemory_bytes = 0') + LINK, r"'memory_bytes'.* 1 or more, not 0"),
        (PAIR.replace('device = "t4"', 'device = "t4"\nwatts = true') + LINK, r"a number, not true"),
        (PAIR.replace('"a"', '""') + LINK, r"'name' in \[\[machine\]\] 1 .*printable"),
        (PAIR.replace('"a"', '"a\\u0000"') + LINK, r"printable"),
        (PAIR.replace('"north"', '"\\u001b[31m"') + LINK, r"'region' .*printable"),
        (PAIR.replace('"a"', "3") + LINK, r"'name' in \[\[machine\]\] 1 must be text in quotes, not 3"),
        (
            PAIR + LINK.replace('"south"]', '"south", "east"]'),
            r"'between' in \[\[link\]\] 1 must be a list of at most 2",
        ),
        ("[machine]\nname = 'a'", r"'machine' must be a list \(of tables: each under a heading in double"),
        (
            FIGURES.replace("1e12", "0") + LINK,
            r"'flops_per_s.float16' in \[\[machine\]\] 1 must be 1000 or more, not 0",
        ),
        (FIGURES.replace("1e11", "0") + LINK, r"'memory_bandwidth_bytes_per_s' .* must be 1000 or more, not 0"),
        (FIGURES.replace("float16", "flaot16") + LINK, r"no dtype 'flaot16'; did you mean float16"),
        (PAIR.replace('device = "t4"', 'device = "t4"\nmarket = "mining"') + LINK, r"No mining price of t4"),
        (
            PAIR.replace('device = "t4"', 'device = "t4"\nmarket = "theft"') + LINK,
            r"'market'.* must be one of 'on_demand', ",
        ),
        (PAIR.replace('device = "t4"', 'device = "t4"\nmemory_bytes = -1') + LINK, r"must be 1 or more, not -1"),
        ('name = "empty"', r"has no machine; add"),
        ("machine = []", r"has no machine; add"),
        ('links = "atlantis"\n' + PAIR, r"no table of links 'atlantis'.*ten-cities"),
        ("name = nothing", r"not valid TOML.*line 1"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(text: str, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said) as caught:
        parse_pool(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("latencies", "bandwidths", "said"),
    [
        ("[[0, 1]]", "[[0, 1], [1, 0]]", "latency_s has 1 rows for 2 names: it is not square"),
        ("[[0, 1], [1, 0]]", "[[0, 1], [1]]", "row 2 of bandwidth_bytes_per_s has 1 entries for 2 names"),
        (
            "[[0, 1], [1, 0]]",
            "[[0, 1], [0, 0]]",
            "the bandwidth from b to a is 0.0; it must lie between 1 and 1e+15 bytes",
        ),
        ("[[0, 1], [1, 0]]", "[[0, -3], [1, 0]]", "the bandwidth from a to b is -3.0"),
        ("[[0, -1], [1, 0]]", "[[0, 1], [1, 0]]", "the latency from a to b is -1.0 s"),
    ],
)
def test_a_matrix_must_be_square_and_positive(latencies: str, bandwidths: str, said: str) -> None:
    text = f'{PAIR}\n[matrix]\nof = ["a", "b"]\nlatency_s = {latencies}\nbandwidth_bytes_per_s = {bandwidths}'
    with pytest.raises(InvalidRequest) as caught:
        parse_pool(text)
    assert said in str(caught.value)


@pytest.mark.parametrize("text", ["machine = " + 5000 * "[", "a" + 3000 * ".a" + " = 1"])
def test_a_file_that_is_nested_beyond_reason_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"nested too deeply|not valid TOML"):
        parse_pool(text)


@pytest.mark.parametrize("device", ["l4", "rtx-4090", "a100-80gb", "m2-ultra", "cpu-laptop-4"])
def test_no_device_of_the_table_is_lent_to_its_last_byte(device: str) -> None:
    (node,) = parse_pool(f'[[machine]]\ndevice = "{device}"').nodes
    has = device_facts(device).memory_bytes
    assert has / 2 < node.device.memory_bytes <= has - LEAST_BYTES


def test_a_mac_lends_three_quarters_of_its_memory_and_what_is_written_counts() -> None:
    (mac,) = parse_pool('[[machine]]\ndevice = "m2-ultra"').nodes
    assert mac.device.memory_bytes == int(MAC_SHARE * device_facts("m2-ultra").memory_bytes)
    (told,) = parse_pool('[[machine]]\ndevice = "m2-ultra"\nmemory_bytes = 180e9').nodes
    assert told.device.memory_bytes == 180_000_000_000


def test_what_is_free_on_a_small_device_is_not_all_kept_back() -> None:
    assert usable_bytes("cuda", 2**29) == 3 * 2**27
    assert usable_bytes("mps", 2**33, 2**34) == 2**33
    assert usable_bytes("mps", 2**34, 2**34) == 3 * 2**32


@pytest.mark.parametrize(
    ("bandwidth", "bytes_per_s"),
    [
        ('bandwidth = "1Gbit"', 125e6),
        ('bandwidth = "1 Gbit/s"', 125e6),
        ('bandwidth = "100 Mbps"', 12.5e6),
        ('bandwidth = "1Gb/s"', 125e6),
        ('bandwidth = "12 GB/s"', 12e9),
        ('bandwidth_bytes_per_s = "1.5 MiB/s"', 1.5 * 2**20),
        ("bandwidth_bytes_per_s = 125e6", 125e6),
    ],
)
def test_amounts_may_bring_their_unit(bandwidth: str, bytes_per_s: float) -> None:
    text = f'[[machine]]\ndevice = "l4"\ncount = 2\nmemory = "20 GiB"\n[elsewhere]\nlatency = "20ms"\n{bandwidth}'
    pool = parse_pool(text)
    assert pool.nodes[0].device.memory_bytes == 20 * 2**30
    assert pool.link("l4-1", "l4-2") == LinkSpeed(0.02, pytest.approx(bytes_per_s))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("bandwidth = 1e9", "bandwidth needs a unit"),
        ('bandwidth = "1 Gparsec"', "'1 Gparsec' has no unit that is known"),
        ('bandwidth_bytes_per_s = "fast"', "must be a number, not 'fast'"),
    ],
)
def test_amounts_that_are_none_are_refused(line: str, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        parse_pool(f'[[machine]]\ndevice = "l4"\ncount = 2\n[elsewhere]\nlatency = "20ms"\n{line}')


def test_memory_in_bits_and_times_in_bytes_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="are bits"):
        parse_pool('[[machine]]\ndevice = "l4"\nmemory = "8Gbit"')
    with pytest.raises(InvalidRequest, match="no time"):
        parse_pool('[[machine]]\ndevice = "l4"\ncount = 2\n[elsewhere]\nlatency = "20MB"\nbandwidth = "1Gbit"')
