"""A pool as the search sees it: machines sorted into classes that are as good as each other. Knows no model.

    kind    machines with the same devices and the same links between these
    class   machines of one kind, at one price, from which and to which every link is alike

Machines of a class are interchangeable, so a layout is judged by how many of each class it takes. Links measured one by
one are never quite equal; within one region, those that differ by less than a fifth count as alike in the search. The
forecast of what is found uses the links as they are.
"""

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from muster.cost.island import SLOWEST_INSIDE
from muster.spec.named_links import NamedLinks
from muster.spec.pool import LinkSpeed, Node, NodeId, Pool

Floats = npt.NDArray[np.float64]
_ALIKE = 1.2
_SAMPLES = 4
"""Links looked at between two places of a large pool."""


@dataclass(frozen=True)
class Fleet:
    nodes: tuple[Node, ...]
    kinds: tuple[Node, ...]
    """One machine of each kind."""
    class_of: tuple[int, ...]
    """Of each node."""
    kind_of: tuple[int, ...]
    """Of each class."""
    region_of: tuple[str, ...]
    """Of each class."""
    price: Floats
    """[class] dollars an hour of a machine; nan where nobody said."""
    latency_s: Floats
    """[class, class], one way; the diagonal is between two machines of the class."""
    bandwidth: Floats
    """[class, class], bytes per second."""

    def inside(self, of_class: int) -> LinkSpeed:
        """Between two devices of a machine."""
        return self.kinds[self.kind_of[of_class]].inside or SLOWEST_INSIDE


def sort_into_classes(pool: Pool, apart: Collection[NodeId] = ()) -> Fleet:
    """Each of `apart` is a class by itself."""
    nodes = tuple(sorted(pool.nodes, key=lambda node: node.id))
    kind_keys = [_kind(node) for node in nodes]
    places = _places(pool, nodes)
    keys: list[Hashable] = [
        (kind, place, node.region, node.price_per_hour, node.id if node.id in apart else "")
        for kind, place, node in zip(kind_keys, places, nodes, strict=True)
    ]
    kinds, _ = _number(kind_keys)
    classes, class_of = _number(keys)
    members = [[i for i, one in enumerate(class_of) if one == of_class] for of_class in range(len(classes))]
    first = [nodes[some[0]] for some in members]
    latency_s, bandwidth = _links(pool, nodes, members)
    return Fleet(
        nodes=nodes,
        kinds=tuple(nodes[kind_keys.index(kind)] for kind in kinds),
        class_of=tuple(class_of),
        kind_of=tuple(kinds.index(_kind(node)) for node in first),
        region_of=tuple(node.region for node in first),
        price=np.array([np.nan if node.price_per_hour is None else node.price_per_hour for node in first]),
        latency_s=latency_s,
        bandwidth=bandwidth,
    )


def _kind(node: Node) -> Hashable:
    device = node.device
    speeds = tuple(sorted(device.flops_per_s.items()))
    rest = (device.memory_bandwidth_bytes_per_s, device.host_bandwidth_bytes_per_s, device.host_memory_bytes)
    disk = (device.disk_bandwidth_bytes_per_s, device.disk_bytes, device.tiers)
    return device.kind, device.name, device.memory_bytes, speeds, rest, disk, node.device_count, node.inside


def _number(keys: Sequence[Hashable]) -> tuple[list[Hashable], list[int]]:
    """Distinct keys in order of appearance, and which of them each one is."""
    numbers: dict[Hashable, int] = {}
    which = [numbers.setdefault(key, len(numbers)) for key in keys]
    return list(numbers), which


def _places(pool: Pool, nodes: Sequence[Node]) -> list[Hashable]:
    """Equal for machines that the links do not tell apart."""
    if isinstance(pool.links, NamedLinks):
        known = pool.links.names
        return [pool.links.place_of(node.id) if node.id in known else node.id for node in nodes]
    if not pool.links:
        return ["" for _ in nodes]
    regions: dict[str, list[Node]] = {}
    for node in nodes:
        regions.setdefault(node.region, []).append(node)
    alike = {name: _are_alike(pool, some, nodes) for name, some in regions.items()}
    return [node.region if alike[node.region] else node.id for node in nodes]


def _are_alike(pool: Pool, some: Sequence[Node], everyone: Sequence[Node]) -> bool:
    """Whether all of `some` see each other and every other machine over links that hardly differ."""
    if len(some) == 1:
        return False
    columns = [[pool.link(one.id, other.id) for one in some if one is not other] for other in everyone]
    columns += [[pool.link(other.id, one.id) for one in some if one is not other] for other in everyone]
    among = [pool.link(one.id, other.id) for one in some for other in some if one is not other]
    return all(_spread(column) for column in columns if column) and _spread(among)


def _spread(links: Sequence[LinkSpeed]) -> bool:
    latencies = [link.latency_s + 1e-4 for link in links]
    bandwidths = [link.bandwidth_bytes_per_s for link in links]
    return max(latencies) <= _ALIKE * min(latencies) and max(bandwidths) <= _ALIKE * min(bandwidths)


def _links(pool: Pool, nodes: Sequence[Node], members: Sequence[Sequence[int]]) -> tuple[Floats, Floats]:
    count = len(members)
    latency_s, bandwidth = np.zeros((count, count)), np.full((count, count), np.inf)
    for i in range(count):
        for j in range(count):
            pairs = [(a, b) for a in members[i][:_SAMPLES] for b in members[j][:_SAMPLES] if a != b]
            links = [pool.link(nodes[a].id, nodes[b].id) for a, b in pairs]
            if links:
                latency_s[i, j] = sum(link.latency_s for link in links) / len(links)
                bandwidth[i, j] = min(link.bandwidth_bytes_per_s for link in links)
    return latency_s, bandwidth
