"""The table of hardware facts: complete, in the right units, and kind to spelling."""

import re

import pytest

from muster.errors import InvalidRequest
from muster.spec.devices import MARKETS, device_facts, device_names, find_device, prices_as_of, prices_source

PROMISED = (
    "rtx-3060 rtx-3080 rtx-3090 rtx-4070 rtx-4080 rtx-4090 rtx-5090 a4000 a5000 a6000 t4 l4 v100-16gb a10 a40 "
    "a100-40gb a100-80gb l40s h100 h200 b200 mi300x m2-ultra m3-ultra cpu-laptop-4 cpu-desktop-8 "
    "cpu-server-32 cpu-server-64"
)


def test_every_promised_device_is_there() -> None:
    assert set(PROMISED.split()) <= set(device_names())
    assert len(set(device_names())) == len(device_names())


@pytest.mark.parametrize("name", device_names())
def test_figures_of_a_device_hang_together(name: str) -> None:
    facts = device_facts(name)
    device = facts.device()
    assert facts.source
    assert 4e9 < device.memory_bytes < 1e12
    assert 4e10 < device.memory_bandwidth_bytes_per_s < 1e13
    assert 1e11 < device.flops_per_s["float32"] < 5e14
    # A narrower dtype is never slower, and no chip computes a thousand times more than it can read.
    assert all(rate >= device.flops_per_s["float32"] for rate in device.flops_per_s.values())
    assert max(device.flops_per_s.values()) / device.memory_bandwidth_bytes_per_s < 1000
    assert 0 < device.disk_bandwidth_bytes_per_s < device.host_bandwidth_bytes_per_s
    assert device.host_bandwidth_bytes_per_s <= facts.peer_bandwidth_bytes_per_s
    assert 20 < facts.watts <= 1000
    assert set(facts.price_per_hour) <= set(MARKETS)


@pytest.mark.parametrize("name", device_names())
def test_a_device_that_may_vanish_costs_less(name: str) -> None:
    prices = device_facts(name).price_per_hour
    assert all(prices[market] <= prices.get("on_demand", 99) for market in prices)
    assert prices.get("mining", 0) < prices.get("community", 1)


def test_peaks_of_well_known_cards_are_the_printed_ones() -> None:
    assert device_facts("h100").flops_per_s["bfloat16"] == 989e12
    assert device_facts("rtx-4090").flops_per_s["float16"] == 165.2e12
    assert device_facts("t4").host_bandwidth_bytes_per_s == pytest.approx(15.75e9, rel=1e-3)
    assert device_facts("h100").host_bandwidth_bytes_per_s == pytest.approx(63e9, rel=1e-3)
    assert device_facts("v100").device().memory_bytes == 16 * 2**30
    assert "bfloat16" not in device_facts("v100").flops_per_s
    assert device_facts("m2-ultra").host_bandwidth_bytes_per_s == 800e9


def test_prices_are_dated_and_called_approximate() -> None:
    assert re.fullmatch(r"\d{4}-\d{2}-\d{2}", prices_as_of())
    assert "Approximate" in prices_source()


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("RTX_3080", "rtx-3080"),
        ("NVIDIA RTX A6000", "a6000"),
        ("Tesla V100-SXM2-16GB", "v100-16gb"),
        ("NVIDIA A100-SXM4-80GB", "a100-80gb"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("AMD Instinct MI300X", "mi300x"),
    ],
)
def test_a_device_is_found_by_what_a_driver_calls_it(spelling: str, name: str) -> None:
    found = find_device(spelling)
    assert found is not None
    assert found.name == name


def test_an_unknown_device_is_refused_with_the_closest_names() -> None:
    assert find_device("rtx-4900") is None
    with pytest.raises(InvalidRequest, match=r"'rtx-4900'.*did you mean rtx-4090"):
        device_facts("rtx-4900")
    with pytest.raises(InvalidRequest, match=r"choose one of a10, "):
        device_facts("abacus")


def test_a_price_that_nobody_knows_is_refused_with_those_that_are_known() -> None:
    assert device_facts("rtx-4090").price("mining") == pytest.approx(0.82 / 24, rel=0.01)
    with pytest.raises(InvalidRequest, match=r"mining price of h100.*known: on_demand, spot, community"):
        device_facts("h100").price("mining")
