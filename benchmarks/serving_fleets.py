"""Fleets, models and workloads for the benchmark of serving plans. Knows no planner."""

from dataclasses import replace

import numpy as np

from muster.cost.named_shapes import named_shape
from muster.spec.fleets import shipped_fleet
from muster.spec.link_table import link_table
from muster.spec.model_shape import ModelShape
from muster.spec.pool import LinkSpeed, Pool
from muster.spec.pool_file import parse_pool
from muster.spec.workload import ServeWorkload

CHAT = ServeWorkload(prompt_tokens=128, output_tokens=64)
"""HexGen (arXiv 2311.11514, section 5): prompts of the LMSYS chatbot arena, answers of 32, 64 or 128 tokens."""

DESERVE_ROWS = {
    0.0: (20, 445.2),
    0.016: (20, 458.5),
    0.032: (20, 457.3),
    0.0584: (16, 434.1),
    0.064: (20, 456.8),
    0.256: (36, 442.9),
}
"""One-way latency -> (steps in flight, tokens/s): DeServe (arXiv 2501.14784, table 4) and deserve_exp/exp_args.csv at
github.com/CoLearn-Dev/deserve, commit 416c75c."""
DESERVE_BATCH, DESERVE_PAGE = 75, 8
"""Sequences in a microbatch and tokens in a page, of the same settings."""
DESERVE_WORK = ServeWorkload(prompt_tokens=128, output_tokens=166)
"""No lengths were published; so long that a sequence fills what the published pages leave it (293 tokens)."""

CITY_DEVICES = ("rtx-4090", "rtx-3090", "a6000", "l4", "a100-80gb", "rtx-4080")
SMALL_DEVICES = ("t4", "l4", "rtx-3090", "rtx-4090", "a6000")


def deserve(latency_s: float) -> Pool:
    """The eight L4 with so much latency on every hop."""
    fleet = shipped_fleet("deserve-8xl4")
    return replace(fleet, default_link=LinkSpeed(latency_s, fleet.default_link.bandwidth_bytes_per_s), links={})


def case_study() -> Pool:
    """HexGen's first example: four A6000, two A5000 and two A4000 in three machines, as close as its regions are."""
    names = (("a6000", 4), ("a5000", 2), ("a4000", 2))
    tables = "".join(f'[[machine]]\nname = "{name}"\ndevice = "{name}"\ndevices = {count}\n' for name, count in names)
    return parse_pool(tables + "[elsewhere]\nlatency_s = 0.001\nbandwidth_bytes_per_s = 1250000000\n")


def cities(devices: int, seed: int = 0) -> Pool:
    """So many devices in machines of one to eight, at random in the ten cities."""
    rng = np.random.default_rng(seed)
    names = link_table("ten-cities").matrix.of
    counts: dict[tuple[str, str, int], int] = {}
    left = devices
    while left:
        size = min(left, int(rng.choice([1, 1, 2, 4, 8])))
        key = (names[rng.integers(10)], CITY_DEVICES[rng.integers(len(CITY_DEVICES))], size)
        counts[key] = counts.get(key, 0) + 1
        left -= size
    return _pool(counts)


def small(seed: int) -> Pool:
    """Two to six devices in machines of one or two, in up to three of the ten cities."""
    rng = np.random.default_rng(seed)
    names = link_table("ten-cities").matrix.of
    near = rng.choice(10, 3, replace=False)
    counts: dict[tuple[str, str, int], int] = {}
    left = int(rng.integers(3, 7))
    while left:
        size = min(left, int(rng.choice([1, 1, 2])))
        key = (names[near[rng.integers(3)]], SMALL_DEVICES[rng.integers(len(SMALL_DEVICES))], size)
        counts[key] = counts.get(key, 0) + 1
        left -= size
    return _pool(counts)


def _pool(counts: dict[tuple[str, str, int], int]) -> Pool:
    tables = [
        f'[[machine]]\nname = "{city}-{device}-{size}"\ndevice = "{device}"\ncount = {count}\ndevices = {size}\n'
        f'region = "{city}"\nmarket = "none"\n'
        for (city, device, size), count in counts.items()
    ]
    return parse_pool('links = "ten-cities"\n' + "".join(tables))


def lumped(name: str, lumps: int) -> ModelShape:
    """The model with its layers in equal lumps, so that every cut of it can be tried."""
    shape = named_shape(name)
    size = shape.num_layers // lumps

    def sums(values: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sum(values[first : first + size]) for first in range(0, size * lumps, size) if values)

    return replace(
        shape,
        num_layers=lumps,
        layer_bytes=sums(shape.layer_bytes),
        layer_flops_per_token=sums(shape.layer_flops_per_token),
        kv_bytes_per_token=sums(shape.kv_bytes_per_token),
        attention_flops_per_pair=sums(shape.attention_flops_per_pair),
        saved_bytes_per_token=sums(shape.saved_bytes_per_token),
        windows=(),
        expert_bytes=(),
    )
