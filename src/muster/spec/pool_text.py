"""A `Pool` as the text of a pool file, so that what was measured can be kept, edited and planned for again.

Reading the text gives the same machines, and the same speed from each to each.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from muster.errors import InvalidRequest
from muster.spec.devices import DeviceFacts, find_device
from muster.spec.pool import LinkSpeed, Node, Pool
from muster.spec.pool_file import DTYPES
from muster.spec.ranges import LEAST_BANDWIDTH, LEAST_RATE
from muster.spec.reserve import usable_bytes
from muster.spec.written_tiers import tiers_text

_FIGURES = ("memory_bandwidth_bytes_per_s", "host_bandwidth_bytes_per_s", "disk_bandwidth_bytes_per_s")
_Lines = list[str]
_Speed = Callable[[str, str], LinkSpeed | None]


def to_toml(pool: Pool, description: str = "", source: str = "") -> str:
    """Raises `InvalidRequest` on a link without bandwidth, which a pool file cannot say."""
    head = [("name", pool.name), ("description", description), ("source", source)]
    blocks = [[f"{key} = {_text(value)}" for key, value in head if value]]
    blocks += [_machine(node) for node in pool.nodes]
    blocks += _links(pool)
    blocks.append(["[elsewhere]", *_speed(pool.default_link)])
    market = [
        ("token_price_per_million", pool.market.token_price_per_million),
        ("electricity_price_per_kwh", pool.market.electricity_price_per_kwh),
    ]
    if any(value is not None for _, value in market):
        blocks.append(["[market]", *(f"{key} = {value!r}" for key, value in market if value is not None)])
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _machine(node: Node) -> _Lines:
    facts = find_device(node.device.name)
    named = facts is not None and _as_in_table(node, facts)
    lines = _from_table(node, facts) if facts is not None and named else _by_figures(node)
    if node.device.host_memory_bytes:
        lines.append(f"host_memory_bytes = {node.device.host_memory_bytes}")
    if node.device.disk_bytes:
        lines.append(f"disk_bytes = {node.device.disk_bytes}")
    if node.device.tiers is not None:
        lines.append(f"tiers = {tiers_text(node.device.tiers)}")
    if node.inside is not None:
        _check(node.inside, node.name, node.name)
        lines.append(f"inside = {{ {', '.join(_speed(node.inside))} }}")
    if node.watts is not None:
        lines.append(f"watts = {node.watts!r}")
    called = [f"name = {_text(node.name)}"] + ([f"id = {_text(node.id)}"] if node.id != node.name else [])
    counted = [f"devices = {node.device_count}"] if node.device_count != 1 else []
    placed = [f"region = {_text(node.region)}"] if node.region else []
    return ["[[machine]]", *called, *counted, *placed, *lines]


def _as_in_table(node: Node, facts: DeviceFacts) -> bool:
    """Whether naming the device says the same; a machine with gaps that the table would fill is written in figures."""
    filled = node.watts is not None and (node.inside is not None or node.device_count == 1)
    lent = node.device
    same = replace(lent, memory_bytes=facts.memory_bytes, host_memory_bytes=0, disk_bytes=0, tiers=None)
    return filled and same == facts.device()


def _from_table(node: Node, facts: DeviceFacts) -> _Lines:
    lines = [f"device = {_text(facts.name)}"]
    if node.device.memory_bytes != usable_bytes(facts.kind, facts.memory_bytes):
        lines.append(f"memory_bytes = {node.device.memory_bytes}")
    if node.price_per_hour is None:
        return [*lines, 'market = "none"']
    return [*lines, f"price_per_hour = {node.price_per_hour!r}"]


def _by_figures(node: Node) -> _Lines:
    device = node.device
    # A figure that nobody knows is 0, which a pool file does not say.
    known = {dtype: rate for dtype, rate in device.flops_per_s.items() if dtype in DTYPES and rate >= LEAST_RATE}
    rates = ", ".join(f"{_text(dtype)} = {rate!r}" for dtype, rate in known.items())
    lines = [f"kind = {_text(device.kind)}", f"title = {_text(device.name)}", f"memory_bytes = {device.memory_bytes}"]
    lines += [f"flops_per_s = {{ {rates} }}"] if rates else []
    figures = {figure: getattr(device, figure) for figure in _FIGURES}
    lines += [f"{figure} = {value!r}" for figure, value in figures.items() if value >= LEAST_RATE]
    return lines + ([f"price_per_hour = {node.price_per_hour!r}"] if node.price_per_hour is not None else [])


def _links(pool: Pool) -> list[_Lines]:
    """A matrix of regions where those say everything, else one of machines."""
    if len(pool.nodes) < 2:
        return []
    by_region = _uniform(pool)
    if by_region is not None:
        regions = list(dict.fromkeys(node.region for node in pool.nodes))
        return [_matrix(regions, lambda source, target: by_region.get((source, target)))]
    ids = [node.id for node in pool.nodes]
    return [_matrix(ids, lambda source, target: pool.link(source, target) if source != target else None)]


def _uniform(pool: Pool) -> dict[tuple[str, str], LinkSpeed] | None:
    """(from, to) -> the one speed between all machines of the regions; None if some differ, or names are ambiguous."""
    regions = {node.region for node in pool.nodes}
    if "" in regions or regions & {name for node in pool.nodes for name in (node.id, node.name)}:
        return None
    found: dict[tuple[str, str], LinkSpeed] = {}
    for source in pool.nodes:
        for target in pool.nodes:
            if source.id == target.id:
                continue
            speed = pool.link(source.id, target.id)
            if found.setdefault((source.region, target.region), speed) != speed:
                return None
    return found


def _matrix(names: Sequence[str], speed: _Speed) -> _Lines:
    rows = [[speed(source, target) for target in names] for source in names]
    for source, row in zip(names, rows, strict=True):
        for target, entry in zip(names, row, strict=True):
            if entry is not None:
                _check(entry, source, target)
    # Zero on the diagonal says nothing, which is what a lone machine of a region has to say.
    latencies = [[entry.latency_s if entry else 0.0 for entry in row] for row in rows]
    bandwidths = [[entry.bandwidth_bytes_per_s if entry else 0.0 for entry in row] for row in rows]
    of = ", ".join(_text(name) for name in names)
    return [
        "[matrix]",
        f"of = [{of}]",
        *_rows("latency_s", latencies),
        *_rows("bandwidth_bytes_per_s", bandwidths),
    ]


def _rows(key: str, rows: Iterable[Iterable[float]]) -> _Lines:
    return [f"{key} = [", *(f"    [{', '.join(repr(value) for value in row)}]," for row in rows), "]"]


def _speed(link: LinkSpeed) -> _Lines:
    return [f"latency_s = {link.latency_s!r}", f"bandwidth_bytes_per_s = {link.bandwidth_bytes_per_s!r}"]


def _check(link: LinkSpeed, source: str, target: str) -> None:
    if not link.bandwidth_bytes_per_s >= LEAST_BANDWIDTH:
        raise InvalidRequest(f"The link from {source} to {target} is down; write the pool down once it works again.")


def _text(value: str) -> str:
    """A TOML string: JSON's escapes, except that TOML wants DEL escaped too."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
