"""Symmetric pipelines: one tensor-parallel degree for all stages, and as many layers in each as near as it goes.

What most engines can do; the planner's own pipelines are compared with them.
"""

from collections.abc import Iterator, Sequence

from muster.plan.serve.cuts import Cut, Item
from muster.plan.serve.stage_tables import StageTables


def symmetric_cuts(tables: StageTables, order: Sequence[Item]) -> Iterator[tuple[Cut, ...]]:
    """One pipeline for each degree that divides the devices of every machine; all of these are used."""
    for degree in tables.degrees(min(item.devices for item in order)):
        if any(item.devices % degree for item in order):
            continue
        owners = [index for index, item in enumerate(order) for _ in range(item.devices // degree)]
        if len(owners) <= tables.layers:
            ends = [round(number * tables.layers / len(owners)) for number in range(len(owners) + 1)]
            yield tuple(Cut(*one) for one in zip(owners, [degree] * len(owners), ends, ends[1:], strict=False))
