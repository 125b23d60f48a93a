"""Machines of an island as one machine of several devices, so that planners can give them a stage together. Pure.

A planner that knows machines of several devices plans on the `joined` pool; `parted` says what that means of the
machines that there are. Only what their owners declare to be an island is one: members send each other plain sums.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from muster.cost.island import slowest_way
from muster.cost.pace import memory_bandwidth
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Stage
from muster.spec.pool import Device, Node, NodeId, Pool

Island = tuple[Node, ...]
"""Machines that share a stage, the slowest first: it speaks for them, since the others wait for it anyway."""


@dataclass(frozen=True, slots=True)
class JointPool:
    pool: Pool
    """With a machine of several devices for each island; it has the id of the island's slowest machine."""
    members: Mapping[NodeId, tuple[NodeId, ...]]
    """Of each of those, in the order of its devices."""

    def parted(self, stages: Iterable[Stage]) -> tuple[Stage, ...]:
        """The same stages by the machines that there are."""
        return tuple(map(self._parted, stages))

    def _parted(self, stage: Stage) -> Stage:
        if stage.node not in self.members:
            return stage
        first, *others = (self.members[stage.node][device] for device in stage.devices)
        return replace(stage, node=first, devices=(0,), others=tuple(others))


def joined(shape: ModelShape, pool: Pool, together: Iterable[Stage] = (), apart: Iterable[NodeId] = ()) -> JointPool:
    """Those who hold the stages of `together` are islands as they are, and none of `apart` is in any.

    Of other machines of an island, those become one that are fastest together at a degree at which the model can be
    cut; then the rest likewise.
    """
    nodes = {node.id: node for node in pool.nodes}
    islands = [
        tuple(nodes[node] for node in stage.members)
        for stage in together
        if stage.others and nodes.keys() >= set(stage.members)
    ]
    taken = {node.id for island in islands for node in island} | set(apart)
    free: dict[str, list[Node]] = {}
    for node in pool.nodes:
        if node.island and node.id not in taken:
            free.setdefault(node.island, []).append(node)
    for name in sorted(free):
        islands += _islands(shape, pool, free[name])
    joint = {island[0].id: _joint(pool, island) for island in islands}
    inside = {node.id for island in islands for node in island[1:]}
    left = tuple(joint.get(node.id, node) for node in pool.nodes if node.id not in inside)
    members = {island[0].id: tuple(node.id for node in island) for island in islands}
    return JointPool(replace(pool, nodes=left), members)


def _islands(shape: ModelShape, pool: Pool, nodes: Sequence[Node]) -> Iterator[Island]:
    left = sorted(nodes, key=lambda node: (-_speed(node), node.id))
    while best := _best(shape, pool, left):
        yield best
        left = [node for node in left if node not in best]


def _best(shape: ModelShape, pool: Pool, fastest: Sequence[Node]) -> Island:
    """The slowest paces them all, so fewer may be faster together; empty where one alone is."""
    sizes = [1, *(degree for degree in shape.degrees or () if degree <= len(fastest))]
    sizes = [size for size in sizes if size == 1 or _reach_each_other(pool, fastest[:size])]
    best = max(sizes, key=lambda size: (size * _speed(fastest[size - 1]), -size)) if fastest else 1
    return tuple(reversed(fastest[:best])) if best > 1 else ()


def _reach_each_other(pool: Pool, nodes: Sequence[Node]) -> bool:
    return slowest_way(pool, [node.id for node in nodes]).bandwidth_bytes_per_s > 0


def _speed(node: Node) -> float:
    """What a step that generates waits for most of the time."""
    return memory_bandwidth(node.device)


def _joint(pool: Pool, island: Island) -> Node:
    return replace(
        island[0],
        name=" + ".join(node.name for node in island),
        device=_least([node.device for node in island]),
        device_count=len(island),
        inside=slowest_way(pool, [node.id for node in island]),
        island="",
    )


def _least(devices: Sequence[Device]) -> Device:
    """What each of them can do at least."""
    common = set.intersection(*(set(device.flops_per_s) for device in devices))
    return replace(
        devices[0],
        memory_bytes=min(device.memory_bytes for device in devices),
        flops_per_s={dtype: min(device.flops_per_s[dtype] for device in devices) for dtype in sorted(common)},
        memory_bandwidth_bytes_per_s=min(device.memory_bandwidth_bytes_per_s for device in devices),
        disk_bandwidth_bytes_per_s=min(device.disk_bandwidth_bytes_per_s for device in devices),
        host_memory_bytes=0,
    )
