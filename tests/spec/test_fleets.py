"""The published fleets, held against the figures that were published."""

from itertools import product

import numpy as np
import pytest

from muster.errors import InvalidRequest
from muster.spec.fleets import fleet_names, shipped_fleet
from muster.spec.link_matrix import link_matrices
from muster.spec.link_table import link_table, link_table_names
from muster.spec.pool import LinkSpeed, Pool

GBIT = 1e9 / 8

# DT-FM, scheduler/heuristic_evolutionary_solver/config.py, delay_bandwidth_dict: ms and Gbit/s.
SOME_CITIES = {
    ("oregon", "virginia"): (67, 0.79),
    ("oregon", "sydney"): (139, 0.36),
    ("virginia", "ohio"): (11, 1.12),
    ("ohio", "tokyo"): (130, 0.694),
    ("tokyo", "seoul"): (34, 1.10),
    ("seoul", "london"): (238, 0.342),
    ("singapore", "sydney"): (92, 0.816),
    ("london", "frankfurt"): (14, 1.14),
    ("frankfurt", "ireland"): (24, 1.08),
}
# The same file, simulate_3_regional_geo_distributed.
STATES = {
    ("virginia", "oregon"): (67, 1.15),
    ("virginia", "california"): (59, 1.05),
    ("virginia", "ohio"): (11, 1.12),
    ("oregon", "california"): (12, 1.25),
    ("oregon", "ohio"): (49, 1.10),
    ("california", "ohio"): (52, 1.02),
}


def check(pool: Pool, source: str, target: str, milliseconds: float, gbit: float) -> None:
    speed = LinkSpeed(pytest.approx(milliseconds / 1000), pytest.approx(gbit * GBIT))
    assert pool.link(source, target) == speed
    assert pool.link(target, source) == speed


def test_the_promised_fleets_are_there() -> None:
    promised = {f"dtfm-{case}" for case in range(1, 6)} | {"hexgen-58", "deserve-8xl4", "deserve-8x4090"}
    assert promised | {"fusionai-50x3080", "fusionai-4xh100"} <= set(fleet_names())
    with pytest.raises(InvalidRequest, match=r"no fleet 'dtfm-6'.*did you mean dtfm-"):
        shipped_fleet("dtfm-6")


@pytest.mark.parametrize("case", range(1, 6))
def test_each_fleet_of_dtfm_has_64_gpus_and_symmetric_links(case: int) -> None:
    pool = shipped_fleet(f"dtfm-{case}")
    assert len(pool.nodes) == 64
    assert {node.device.name for node in pool.nodes} == {"NVIDIA V100 SXM2 16 GB"}
    for matrix in link_matrices(pool):
        np.testing.assert_array_equal(matrix, matrix.T)


def test_the_data_centres_of_dtfm() -> None:
    on_demand, spot = shipped_fleet("dtfm-1"), shipped_fleet("dtfm-2")
    check(on_demand, "instance-3-1", "instance-3-8", 0, 100)
    check(on_demand, "instance-3-1", "instance-4-1", 0, 25 / 8)
    check(spot, "instance-7-1", "instance-7-4", 0, 100)
    check(spot, "instance-7-1", "single-1", 0, 10 / 8)
    check(spot, "single-1", "single-32", 0, 10 / 8)
    assert sum(node.region == "single" for node in spot.nodes) == 32


def test_the_two_sites_and_the_four_regions_of_dtfm() -> None:
    check(shipped_fleet("dtfm-3"), "ohio-1", "ohio-32", 1, 5)
    check(shipped_fleet("dtfm-3"), "ohio-1", "virginia-1", 11, 1.12)
    for (source, target), speed in STATES.items():
        check(shipped_fleet("dtfm-4"), f"{source}-1", f"{target}-16", *speed)
    check(shipped_fleet("dtfm-4"), "oregon-1", "oregon-2", 5, 2)


def test_the_world_of_dtfm_is_eight_of_the_ten_cities() -> None:
    pool = shipped_fleet("dtfm-5")
    regions = {node.region for node in pool.nodes}
    assert regions == set(link_table("ten-cities").regions) - {"singapore", "sydney"}
    for (source, target), speed in SOME_CITIES.items():
        if {source, target} <= regions:
            check(pool, f"{source}-8", f"{target}-1", *speed)
    check(pool, "tokyo-1", "tokyo-2", 5, 2)


def test_the_table_of_ten_cities() -> None:
    assert link_table_names() == ["ten-cities"]
    table = link_table("ten-cities")
    speeds = table.matrix.speeds()
    assert len(table.regions) == 10
    assert len(speeds) == 100
    for (source, target), (milliseconds, gbit) in SOME_CITIES.items():
        wanted = LinkSpeed(pytest.approx(milliseconds / 1000), pytest.approx(gbit * GBIT))
        assert speeds[source, target] == speeds[target, source] == wanted


def test_the_fleet_of_hexgen() -> None:
    pool = shipped_fleet("hexgen-58")
    counts: dict[str, list[int]] = {}
    for node in pool.nodes:
        counts.setdefault(node.region, []).append(node.device_count)
    assert counts == {"first": [8, 8, 8, 4], "second": [8, 8], "third": [8], "fourth": [3, 3]}
    memory = [round(node.device.memory_bytes / 2**30 / 24) * 24 for node in pool.nodes]
    assert memory == [48, 48, 24, 48, 24, 24, 24, 24, 24]
    assert all(node.inside is not None for node in pool.nodes)
    for a, b in product(pool.nodes, pool.nodes):
        if a != b:
            slow = a.region != b.region
            ratio = (
                pool.link("first-24", "first-48-1").bandwidth_bytes_per_s / pool.link(a.id, b.id).bandwidth_bytes_per_s
            )
            assert ratio == (20 if slow else 1)


def test_the_fleets_of_deserve_cost_what_was_published() -> None:
    cloud, miners = shipped_fleet("deserve-8xl4"), shipped_fleet("deserve-8x4090")
    assert sum(node.price_per_hour or 0 for node in cloud.nodes) == pytest.approx(13.88)
    assert sum(node.price_per_hour or 0 for node in miners.nodes) * 24 == pytest.approx(6.56, rel=0.01)
    assert (cloud.market.token_price_per_million, miners.market.token_price_per_million) == (0.9, 0.3)
    assert cloud.link("l4-1", "l4-8").latency_s == 0.0584
    # Break-even: cost per hour / price per token / 3600, 4,283 and 253 tokens a second in the papers.
    for pool, published in ((cloud, 4283), (miners, 253)):
        price = (pool.market.token_price_per_million or 0) / 1e6
        assert sum(node.price_per_hour or 0 for node in pool.nodes) / price / 3600 == pytest.approx(published, rel=0.01)


def test_the_fleets_of_fusionai_have_the_peaks_that_the_claim_compares() -> None:
    def peak(pool: Pool) -> float:
        return sum(node.device_count * node.device.flops_per_s["float16"] for node in pool.nodes)

    homes, server = shipped_fleet("fusionai-50x3080"), shipped_fleet("fusionai-4xh100")
    assert (len(homes.nodes), len(server.nodes), server.nodes[0].device_count) == (50, 1, 4)
    assert peak(homes) / peak(server) == pytest.approx(0.98, abs=0.005)
