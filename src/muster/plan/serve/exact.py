"""Every layout of a small fleet: all ways to share its devices among replicas, some of them left idle."""

from collections.abc import Iterator
from itertools import product

from muster.plan.serve.cuts import Group
from muster.plan.serve.fleet import Fleet
from muster.plan.serve.layout import Layout, Slice, Team, group_of

MAX_DEVICES = 6


def is_small(fleet: Fleet) -> bool:
    return sum(node.device_count for node in fleet.nodes) <= MAX_DEVICES


def every_layout(fleet: Fleet) -> Iterator[Layout]:
    """Each once, up to machines that are alike."""
    counts = tuple(node.device_count for node in fleet.nodes)
    seen: set[tuple[Group, ...]] = set()
    for layout in _share(counts, ()):
        key = tuple(sorted(group_of(fleet, members) for members in layout))
        if layout and key not in seen:
            seen.add(key)
            yield layout


def _share(left: tuple[int, ...], layout: Layout) -> Iterator[Layout]:
    yield layout
    for taken in product(*(range(count + 1) for count in left)):
        members: Team = tuple(Slice(node, devices) for node, devices in enumerate(taken) if devices)
        # Teams in descending order, so that a layout is not met once for each order of its teams.
        if members and (not layout or members <= layout[-1]):
            rest = tuple(count - gone for count, gone in zip(left, taken, strict=True))
            yield from _share(rest, (*layout, members))
