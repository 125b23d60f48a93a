"""What was written can be read, and means the same."""

from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from muster.errors import InvalidRequest
from muster.spec.devices import device_facts, device_names
from muster.spec.fleets import fleet_names, shipped_fleet
from muster.spec.link_matrix import link_matrices
from muster.spec.pool import Device, LinkSpeed, Market, Node, Pool
from muster.spec.pool_file import DTYPES, parse_pool
from muster.spec.pool_text import to_toml
from muster.spec.tiers import TierRates
from tests.examples import examples

amounts = st.just(0.0) | st.floats(1e3, 1e14)
"""0 is not known, and not written."""
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
names = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=8)
speeds = st.builds(LinkSpeed, st.floats(0, 10), st.floats(1, 1e12))
measured = st.builds(
    Device,
    kind=st.sampled_from(["cpu", "cuda", "mps"]),
    name=words,
    memory_bytes=st.integers(1, 2**45),
    flops_per_s=st.dictionaries(st.sampled_from(DTYPES), st.floats(1e3, 1e14), max_size=3),
    memory_bandwidth_bytes_per_s=amounts,
    host_bandwidth_bytes_per_s=amounts,
    disk_bandwidth_bytes_per_s=amounts,
    host_memory_bytes=st.just(0) | st.integers(1, 2**45),
    disk_bytes=st.just(0) | st.integers(1, 2**45),
    tiers=st.none()
    | st.builds(
        TierRates,
        disk_read_bytes_per_s=amounts,
        matmul_flops_per_s=st.just(()) | st.just(((1, 1e9), (64, 2.5e11))),
        copy_s=st.floats(0, 1),
        copies_overlap=st.floats(0, 1),
        measured_on=words,
    ),
)
from_table = st.sampled_from(device_names()).map(lambda name: device_facts(name).device())
nodes = st.builds(
    Node,
    id=names,
    name=names,
    region=st.sampled_from(["", "north", "south"]) | names,
    device=measured | from_table | from_table.map(lambda device: replace(device, memory_bytes=5 * 2**30)),
    device_count=st.integers(1, 8),
    inside=st.none() | speeds,
    price_per_hour=st.none() | st.floats(0, 100),
    watts=st.none() | st.floats(0, 5000),
)


@st.composite
def pools(draw: st.DrawFn) -> Pool:
    chosen = draw(st.lists(nodes, min_size=1, max_size=5, unique_by=lambda node: node.id))
    pairs = [(a.id, b.id) for a in chosen for b in chosen if a.id != b.id]
    kept = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    few = draw(st.lists(speeds, min_size=1, max_size=3))
    return Pool(
        nodes=tuple(chosen),
        links={pair: draw(st.sampled_from(few)) for pair in kept},
        default_link=draw(speeds),
        name=draw(words),
        market=draw(st.builds(Market, st.none() | st.floats(0, 9), st.none() | st.floats(0, 9))),
    )


def check_same(here: Pool, there: Pool) -> None:
    assert here.nodes == there.nodes
    assert here.default_link == there.default_link
    assert (here.name, here.market) == (there.name, there.market)
    ids = [node.id for node in here.nodes]
    pairs = [(a, b) for a in ids for b in ids if a != b]
    assert [here.link(*pair) for pair in pairs] == [there.link(*pair) for pair in pairs]


@examples(80)
@given(pools())
def test_a_pool_that_is_written_and_read_is_the_same_pool(pool: Pool) -> None:
    check_same(parse_pool(to_toml(pool, "a description", "a source")), pool)


@examples(50)
@given(pools())
def test_matrices_hold_the_link_of_every_pair(pool: Pool) -> None:
    for some in (pool, parse_pool(to_toml(pool))):
        latency, bandwidth = link_matrices(some)
        for i, source in enumerate(some.nodes):
            for j, target in enumerate(some.nodes):
                link = some.link(source.id, target.id) if i != j else LinkSpeed(0.0, np.inf)
                assert (latency[i, j], bandwidth[i, j]) == (link.latency_s, link.bandwidth_bytes_per_s)


@pytest.mark.parametrize("name", fleet_names())
def test_shipped_fleets_survive_being_written(name: str) -> None:
    pool = shipped_fleet(name)
    again = parse_pool(to_toml(pool))
    assert again.nodes == pool.nodes
    for here, there in zip(link_matrices(again), link_matrices(pool), strict=True):
        np.testing.assert_array_equal(here, there)


def test_a_fleet_of_regions_is_written_by_regions() -> None:
    text = to_toml(shipped_fleet("dtfm-4"))
    assert 'device = "v100-16gb"' in text
    assert 'of = ["virginia", "oregon", "california", "ohio"]' in text
    alike = replace(shipped_fleet("dtfm-4").nodes[0], id="ohio", name="ohio")
    mixed = Pool(nodes=(alike, *shipped_fleet("dtfm-4").nodes[16:]))
    assert 'of = ["ohio", "oregon-1", ' in to_toml(mixed), "a machine that is named like a region would mislead"


def test_a_broken_link_is_not_written() -> None:
    a, b = (Node(name, name, "", Device("cpu", "d", 1)) for name in "ab")
    pool = Pool(nodes=(a, b), links={("a", "b"): LinkSpeed(0.1, 0.0)})
    with pytest.raises(InvalidRequest, match="link from a to b is down"):
        to_toml(pool)
