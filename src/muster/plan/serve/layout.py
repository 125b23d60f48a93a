"""Who works with whom: groups of devices, one group per replica; and layouts to start a search from.

Slice    so many devices of one machine
Team     slices that serve one replica (or are left over)
Layout   teams; each device of the pool in at most one
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import ceil
from typing import NamedTuple

from muster.plan.serve.cuts import Group, Item
from muster.plan.serve.fleet import Fleet

TIMES_THE_WEIGHTS = (1.05, 1.15, 1.3, 1.6, 2.0, 2.5, 3.5, 5.0, 8.0, 12.0)
"""Memory of a team, in the seeds."""


class Slice(NamedTuple):
    node: int
    devices: int


Team = tuple[Slice, ...]
Layout = tuple[Team, ...]


def team(slices: Iterable[Slice]) -> Team:
    """Slices of one machine become one."""
    devices: Counter[int] = Counter()
    for one in slices:
        devices[one.node] += one.devices
    return tuple(Slice(*one) for one in sorted(devices.items()))


def group_of(fleet: Fleet, members: Team) -> Group:
    return tuple(sorted(Item(fleet.class_of[one.node], one.devices) for one in members))


def whole(fleet: Fleet, nodes: Iterable[int]) -> Team:
    return tuple(Slice(node, fleet.nodes[node].device_count) for node in sorted(nodes))


def structured(fleet: Fleet, weight_bytes: int) -> Iterator[Layout]:
    """All together, one team per region, per class, per machine, and teams of about equal memory.

    These are cut along classes, regions or nothing, by whole machine or by device, so that a machine can hold several.
    """
    everybody = sorted(range(len(fleet.nodes)), key=lambda node: (_region(fleet, node), fleet.class_of[node], node))
    yield (whole(fleet, everybody),)
    yield tuple(whole(fleet, [node]) for node in everybody)
    regions = _split(everybody, lambda node: _region(fleet, node))
    classes = _split(everybody, lambda node: fleet.class_of[node])
    yield tuple(whole(fleet, nodes) for nodes in regions)
    yield tuple(whole(fleet, nodes) for nodes in classes)
    for times in TIMES_THE_WEIGHTS:
        for scopes in (classes, regions, [everybody]):
            for cut in (_by_machine, _by_device):
                yield tuple(one for scope in scopes for one in cut(fleet, scope, times * weight_bytes))


def _region(fleet: Fleet, node: int) -> str:
    return fleet.region_of[fleet.class_of[node]]


def _split(nodes: Sequence[int], key: Callable[[int], object]) -> list[list[int]]:
    parts: dict[object, list[int]] = {}
    for node in nodes:
        parts.setdefault(key(node), []).append(node)
    return list(parts.values())


def _by_machine(fleet: Fleet, nodes: Sequence[int], target: float) -> list[Team]:
    """Machines in order, a new team whenever the target is reached; a rest that is too small joins the last."""
    teams: list[list[int]] = [[]]
    memory = 0.0
    for node in nodes:
        if memory >= target:
            teams.append([])
            memory = 0.0
        teams[-1].append(node)
        memory += fleet.nodes[node].device_count * fleet.nodes[node].device.memory_bytes
    if memory < target and len(teams) > 1:
        rest = teams.pop()
        teams[-1] += rest
    return [whole(fleet, members) for members in teams]


def _by_device(fleet: Fleet, nodes: Sequence[int], target: float) -> list[Team]:
    """The same by device. What a machine alone can do it does, in equal parts; its rest goes on to the next."""
    teams: list[list[Slice]] = []
    pending: list[Slice] = []
    memory = 0.0
    for node in nodes:
        each, left = fleet.nodes[node].device.memory_bytes, fleet.nodes[node].device_count
        needed = max(1, ceil(target / max(1, each)))
        needed = next((part for part in range(needed, left + 1) if left % part == 0), needed)
        while needed <= left:
            teams.append([Slice(node, needed)])
            left -= needed
        if left:
            pending.append(Slice(node, left))
            memory += left * each
        if memory >= target:
            teams.append(pending)
            pending, memory = [], 0.0
    if pending and teams and memory < target:
        teams[-1] = [*teams[-1], *pending]
    elif pending:
        teams.append(pending)
    return [team(members) for members in teams]
