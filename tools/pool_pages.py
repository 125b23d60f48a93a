"""Generated parts of docs/pools.md: the tables of devices, fleets and model shapes, from the data that ships."""

import tomllib

from muster.cost.named_shapes import named_shape, shape_names
from muster.spec.devices import device_facts, device_names, prices_as_of, prices_source
from muster.spec.fleets import fleet_names, fleet_text, shipped_fleet


def devices() -> str:
    """One row per device; prices per hour on demand, spot and community, or a dash."""
    rows = [
        "| device | GiB | GB/s | TFLOPS 16 bit | 32 bit | host GB/s | watts | $/h on demand, spot, community |",
        "|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    for name in device_names():
        facts = device_facts(name)
        half = max(facts.flops_per_s.get(dtype, 0.0) for dtype in ("bfloat16", "float16"))
        prices = [facts.price_per_hour.get(market) for market in ("on_demand", "spot", "community")]
        cells = [
            f"`{name}`",
            f"{facts.memory_bytes / 2**30:.3g}",
            f"{facts.memory_bandwidth_bytes_per_s / 1e9:g}",
            f"{half / 1e12:g}" if half else "–",
            f"{facts.flops_per_s['float32'] / 1e12:g}",
            f"{facts.host_bandwidth_bytes_per_s / 1e9:.3g}",
            f"{facts.watts:g}",
            ", ".join("–" if price is None else f"{price:g}" for price in prices),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join([*rows, "", f"Prices as of {prices_as_of()}. {prices_source()}"])


def fleets() -> str:
    rows = ["| fleet | machines | devices | |", "|---|--:|--:|---|"]
    for name in fleet_names():
        nodes = shipped_fleet(name).nodes
        described = tomllib.loads(fleet_text(name))["description"]
        rows.append(f"| `{name}` | {len(nodes)} | {sum(node.device_count for node in nodes)} | {described} |")
    return "\n".join(rows)


def shapes() -> str:
    rows = ["| model | layers | weights GB | cache KB per token | context |", "|---|--:|--:|--:|--:|"]
    for name in shape_names():
        shape = named_shape(name)
        weights = shape.weight_bytes(0, shape.num_layers) / 1e9
        cache = shape.cache_bytes_per_token(0, shape.num_layers) / 1e3
        rows.append(f"| `{name}` | {shape.num_layers} | {_three(weights)} | {_three(cache)} | {shape.max_context} |")
    return "\n".join(rows)


def _three(value: float) -> str:
    """Three digits that count, without an exponent."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"
