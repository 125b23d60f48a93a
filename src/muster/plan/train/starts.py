"""Structured layouts for training, each as a person who looks at the map would draw it. Knows no prices.

For every number of stages, every set of machines worth trying (all of them, or only the best connected ones), every
scale at which they cluster and a few ways to cut the path into runs (`dtfm/seeds.py`): pipelines that stay inside their
regions, stages that do, and half of each. Machines of a cluster follow each other by speed, so that a pipeline has
machines alike, or are dealt out, so that every pipeline has some of each.
"""

from collections.abc import Iterator

import numpy as np

from muster.plan.train.dtfm.objective import bottleneck
from muster.plan.train.dtfm.problem import Ints
from muster.plan.train.dtfm.seeds import clusterings, runs
from muster.plan.train.fleet import Fleet

MAX_MATCHED = 16
"""Replicas up to which neighbouring runs are joined by a bottleneck matching."""
MAX_SCALES = 4
MANY = 200
"""Slots beyond which only the scales between single machines and the whole fleet are tried."""
MAX_SUBSETS = 6
FAR_S = 1e6
"""Stands for a link that is down."""


def stage_counts(fleet: Fleet, most: int) -> list[int]:
    """Every number to 8, then ever wider steps."""
    limit = min(fleet.num_layers, fleet.count, most)
    return [n for n in range(1, limit + 1) if n <= 8 or n % (2 if n <= 16 else 8) == 0 or n == fleet.num_layers]


class Starts:
    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.seconds = np.minimum(np.where(np.isfinite(fleet.round_s), fleet.round_s, FAR_S), FAR_S)
        np.fill_diagonal(self.seconds, 0.0)
        # Within a cluster faster machines come first.
        order, scales = clusterings(self.seconds) if fleet.count > 1 else (np.array([0]), [np.array([0])])
        self.order, self.scales = order, _spread(scales if fleet.count <= MANY else scales[1:-1] or scales, MAX_SCALES)
        self.slowness = fleet.microbatch_seconds[fleet.kinds]

    def grids(self, stages: int) -> Iterator[Ints]:
        """[replica, stage]; some of them equal."""
        for chosen in self._subsets(stages):
            replicas = min(len(chosen) // stages, self.fleet.microbatches)
            for clusters in self.scales:
                for alike in (True, False) if len(set(self.fleet.kinds[chosen].tolist())) > 1 else (True,):
                    order = self._by_speed(chosen, clusters, stages, alike)
                    for widths in _run_widths(stages):
                        columns = runs(replicas, clusters, order, widths, False)
                        yield self._joined(np.array(columns).T, widths)

    def _subsets(self, stages: int) -> Iterator[Ints]:
        """All machines, in linkage order; the clusters with the most speed, one more at a time; one; all but a kind."""
        seen: set[bytes] = set()
        for some in self._candidates():
            if len(some) >= stages and some.tobytes() not in seen:
                seen.add(some.tobytes())
                yield some

    def _candidates(self) -> Iterator[Ints]:
        yield self.order
        for clusters in self.scales[::-1]:
            speed = np.bincount(clusters, weights=1 / self.slowness)
            ranked = np.argsort(-speed, kind="stable")
            ranked = ranked[speed[ranked] > 0]
            for count in sorted({1, 2, 3, 4, len(ranked) // 2, len(ranked) - 1} & set(range(1, len(ranked))))[
                :MAX_SUBSETS
            ]:
                yield self.order[np.isin(clusters[self.order], ranked[:count])]
        for kind in np.unique(self.fleet.kinds):
            alike = self.fleet.kinds[self.order] == kind
            yield self.order[alike][:1]
            yield self.order[~alike]

    def _by_speed(self, chosen: Ints, clusters: Ints, stages: int, alike: bool) -> Ints:
        """Clusters as they come; within each the faster first, or dealt out over as many pipelines as there will be."""
        parts = []
        labels = clusters[chosen]
        for label in dict.fromkeys(labels.tolist()):
            part = chosen[labels == label]
            part = part[np.argsort(self.slowness[part], kind="stable")]
            rows = max(1, len(part) // stages)
            if not alike:
                part = np.concatenate([part[row::rows] for row in range(rows)])
            parts.append(part)
        return np.concatenate(parts)

    def _joined(self, grid: Ints, widths: tuple[int, ...]) -> Ints:
        """Rows of each run continue with the row of the next run that is near."""
        if len(widths) == 1 or len(grid) > MAX_MATCHED:
            return grid
        grid = grid.copy()
        for begin in np.cumsum(widths)[:-1]:
            _, partners = bottleneck(self.seconds[np.ix_(grid[:, begin - 1], grid[:, begin])])
            grid[:, begin:] = grid[list(partners), begin:]
        return grid


def _run_widths(stages: int) -> list[tuple[int, ...]]:
    found = [(stages,), (1,) * stages]
    if stages > 2:
        found.append((stages - stages // 2, stages // 2))
    return list(dict.fromkeys(found))


def _spread(scales: list[Ints], most: int) -> list[Ints]:
    """So many of them, from the finest to the coarsest."""
    if len(scales) <= most:
        return scales
    return [scales[round(i * (len(scales) - 1) / (most - 1))] for i in range(most)]
