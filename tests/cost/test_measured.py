"""Constants that come with Muster: by device where the table knows it, else those of the pool's kind of devices."""

from dataclasses import replace

import pytest

from muster.cost.island import all_reduce_seconds
from muster.cost.measured import constants_for, constants_of, fitted, published
from muster.cost.named_shapes import named_shape
from muster.cost.pace import TYPICAL
from muster.spec.devices import device_facts, device_names
from muster.spec.pool import Device, Node, Pool
from muster.spec.pool_file import parse_pool


def pool(*kinds: str) -> Pool:
    return Pool(tuple(Node(str(i), str(i), "", Device(kind, kind, 1)) for i, kind in enumerate(kinds)))


def test_a_pool_of_processors_is_forecast_with_what_was_measured_on_one() -> None:
    constants = constants_of(pool("cpu", "cpu"))
    assert constants == constants_for("cpu") != TYPICAL
    assert constants.step_s > 0


def test_what_nobody_measured_or_what_is_mixed_is_typical() -> None:
    assert constants_of(pool("cuda")) == TYPICAL
    assert constants_of(pool("cpu", "cuda")) == TYPICAL
    assert constants_of(pool()) == TYPICAL


def test_every_fit_says_how_good_it_is_and_where_it_was_made() -> None:
    for entry in fitted().values():
        assert 0 < entry.median_error <= entry.worst_error
        assert entry.measured_on
        assert entry.as_of


def boxes(*machines: str) -> Pool:
    """Each as a pool file says it: a device of the table, and how many of it."""
    text = "\n".join(f'[[machine]]\nname = "m{i}"\n{machine}\n' for i, machine in enumerate(machines))
    return parse_pool(f"{text}\n[elsewhere]\nlatency_s = 0.001\nbandwidth_bytes_per_s = 1e9\n")


def test_every_family_and_every_join_of_the_table_has_constants() -> None:
    facts = [device_facts(name) for name in device_names()]
    assert {one.family for one in facts} - {"cpu"} == set(published().families)
    assert {one.joined for one in facts} == set(published().joins)


def test_no_device_is_forecast_to_reach_more_than_its_peak() -> None:
    for name in device_names():
        own = constants_of(boxes(f'device = "{name}"')).of(device_facts(name).device())
        assert name.startswith("cpu") or min(own.matmul, own.attention, own.memory) >= 1


def test_a_device_that_measured_less_than_its_share_does_what_it_measured() -> None:
    facts = device_facts("rtx-4090")
    printed = facts.device()
    usual = constants_of(Pool((Node("a", "a", "", printed),))).of(printed)
    slow = replace(
        printed,
        flops_per_s={dtype: rate / 10 for dtype, rate in printed.flops_per_s.items()},
        memory_bandwidth_bytes_per_s=printed.memory_bandwidth_bytes_per_s / 10,
    )
    own = constants_of(Pool((Node("a", "a", "", slow),))).of(slow)
    assert usual.matmul > 1
    assert own.matmul == own.memory == 1


def test_devices_of_a_mixed_pool_have_their_own_constants() -> None:
    mixed = boxes('device = "rtx-4090"', 'device = "m2-ultra"')
    constants = constants_of(mixed)
    card, mac = (constants.of(node.device) for node in mixed.nodes)
    assert card != mac
    assert constants.of(Device("cuda", "unheard of", 1)) == TYPICAL


@pytest.mark.parametrize(("device", "joined"), [("rtx-4090", "host"), ("a40", "pcie"), ("a100-80gb", "nvlink")])
def test_an_all_reduce_costs_by_how_devices_are_joined(device: str, joined: str) -> None:
    assert device_facts(device).joined == joined


def test_all_reduces_over_the_hosts_memory_cost_more_than_over_nvlink() -> None:
    seconds = {}
    for device in ("rtx-4090", "a100-80gb"):
        fleet = boxes(f'device = "{device}"\ndevices = 2')
        seconds[device] = [
            all_reduce_seconds(named_shape("llama-2-7b"), tokens, fleet.nodes[0], 2, constants_of(fleet))
            for tokens in (1, 1000)
        ]
    small, large = (nvlink < host for nvlink, host in zip(seconds["a100-80gb"], seconds["rtx-4090"], strict=True))
    assert small
    assert large
