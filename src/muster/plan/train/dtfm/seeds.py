"""Structured starting points: plans that a person who looks at the map would draw.

Machines are clustered by the speed of their links, at every scale that the fleet shows (instance, city, continent). For
each clustering the path is cut into runs of stages, and the rows of a run are pieces of clusters: a piece of length 8
is a pipeline that never leaves its region, pieces of length 4 from islands of four GPUs are islands that span four
*adjacent* stages. One run per path is the region-aligned plan; as many runs as stages keep each stage within a region.
A random search practically never meets these plans where the objective is flat.
"""

from collections import Counter
from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from itertools import pairwise

import numpy as np

from muster.plan.train.dtfm.problem import Floats, Ints, Partition, TrainProblem

MAX_RUNS = 4
MAX_SCALES = 8


def structured(problem: TrainProblem) -> Iterator[Partition]:
    """Partitions in path order, some of them equal."""
    order, scales = clusterings(problem.pipeline_s)
    for clusters in scales:
        for widths in run_widths(problem.stages, problem.stages):
            if len(widths) <= MAX_RUNS or len(widths) == problem.stages:
                for fullest in (False, True):
                    yield runs(problem.replicas, clusters, order, widths, fullest)


def run_widths(stages: int, widest: int) -> Iterator[tuple[int, ...]]:
    """All ways to write `stages` as a sum of widths, widest first."""
    if stages == 0:
        yield ()
    for width in range(min(stages, widest), 0, -1):
        for rest in run_widths(stages - width, width):
            yield (width, *rest)


def runs(replicas: int, clusters: Ints, order: Ints, widths: tuple[int, ...], fullest: bool) -> Partition:
    """Runs of these widths. Rows are pieces of one cluster while such pieces last; then whatever is next in `order`.

    `fullest` takes each piece from the cluster that has most left (mixed stages), else from one cluster after the other
    (stages whose machines are near each other).
    """
    left: dict[int, list[int]] = {}
    for machine in order:
        left.setdefault(int(clusters[machine]), []).append(int(machine))
    columns: list[tuple[int, ...]] = []
    for width in widths:
        columns += zip(*_pieces(left, width, replicas, fullest), strict=True)
    return tuple(columns)


def _pieces(left: dict[int, list[int]], width: int, count: int, fullest: bool) -> list[list[int]]:
    """Taken out of `left`. Clusters that are too small for a piece give theirs together, at the end."""
    pieces: list[list[int]] = []
    # Of clusters with equally many left the first is the fullest.
    able = [(-len(machines) if fullest else 0, place, name) for place, (name, machines) in enumerate(left.items())]
    heapify(able)
    while able and len(pieces) < count:
        _, place, name = heappop(able)
        machines = left[name]
        if len(machines) >= width:
            pieces.append(machines[:width])
            left[name] = machines[width:]
            heappush(able, (-len(left[name]) if fullest else 0, place, name))
    rest = [(name, machine) for name, machines in left.items() for machine in machines]
    taken = rest[: (count - len(pieces)) * width]
    pieces += [[machine for _, machine in taken[i : i + width]] for i in range(0, len(taken), width)]
    for name, gone in Counter(name for name, _ in taken).items():
        left[name] = left[name][gone:]
    return pieces


def clusterings(seconds: Floats) -> tuple[Ints, list[Ints]]:
    """Single linkage: the machines in an order that keeps every cluster together, and labels for each scale.

    Scales are the gaps in the heights at which clusters merge, the widest gaps (by ratio) if there are many.
    """
    count = len(seconds)
    merges = _spanning_tree(seconds)
    heights = [height for height, _, _ in merges]
    gaps = [(after / max(before, 1e-12), index) for index, (before, after) in enumerate(pairwise(heights))]
    chosen = {index for gap, index in sorted(gaps, reverse=True)[: MAX_SCALES - 1] if gap > 1 + 1e-9}
    labels, members = np.arange(count), {machine: [machine] for machine in range(count)}
    scales = [labels.copy()]
    for index, (_, i, j) in enumerate(merges):
        keep, gone = int(labels[i]), int(labels[j])
        labels[labels == gone] = keep
        members[keep] += members.pop(gone)
        if index in chosen or index == len(merges) - 1:
            scales.append(labels.copy())
    order = np.array(next(iter(members.values())), dtype=np.int64)
    return order, scales


def _spanning_tree(seconds: Floats) -> list[tuple[float, int, int]]:
    """Edges of a minimum spanning tree (Prim), shortest first."""
    count = len(seconds)
    nearest, parent = seconds[0].copy(), np.zeros(count, dtype=np.int64)
    outside = np.ones(count, dtype=bool)
    outside[0] = False
    tree = []
    for _ in range(count - 1):
        machine = int(np.where(outside, nearest, np.inf).argmin())
        tree.append((float(nearest[machine]), int(parent[machine]), machine))
        outside[machine] = False
        closer = outside & (seconds[machine] < nearest)
        nearest[closer], parent[closer] = seconds[machine][closer], machine
    return sorted(tree)
