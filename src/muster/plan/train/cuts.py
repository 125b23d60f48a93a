"""Where to cut the layers for machines that stand in a grid. Exact for the slowest stage; knows no links."""

import numpy as np

from muster.plan.train.dtfm.problem import Floats, Ints
from muster.plan.train.price import Prices


def best_cuts(prices: Prices, grid: Ints) -> tuple[int, ...] | None:
    """The cuts whose slowest stage is as fast as can be, with memory for all; None if there are none.

    A replica that is slow as a whole gets fewer microbatches, so a slot's time counts in proportion to the speed of its
    replica. Dynamic programming over stages and layers.
    """
    fleet, (replicas, stages) = prices.fleet, grid.shape
    if stages > fleet.num_layers:
        return None
    speed = (1 / fleet.microbatch_seconds[fleet.kinds[grid]]).sum(axis=1)
    share = speed / speed.max()
    least = np.where(np.arange(fleet.num_layers + 1) == 0, 0.0, np.inf)
    came: list[Ints] = []
    for stage in range(stages):
        times = _column_seconds(prices, grid[:, stage], share, prices.alive(stage, stages, replicas))
        slowest = np.maximum(least[:, None], times)
        came.append(slowest.argmin(axis=0))
        least = slowest.min(axis=0)
    if not np.isfinite(least[-1]):
        return None
    cuts = [fleet.num_layers]
    for before in reversed(came):
        cuts.append(int(before[cuts[-1]]))
    return tuple(reversed(cuts))


def _column_seconds(prices: Prices, column: Ints, share: Floats, alive: int) -> Floats:
    """[first, last]: of the slowest replica, weighed by its share of the work."""
    kinds = prices.fleet.kinds[column]
    times = [prices.fleet.fits(int(kind), alive) * share[kinds == kind].max() for kind in np.unique(kinds)]
    found: Floats = np.max(times, axis=0)
    return found
