"""A lower bound of the step time of any layout, by speeds and the fastest links. Knows no search.

With rate r = 1 / (seconds that a whole microbatch takes there, arithmetic only) for every slot, a replica of slots P
that computes m microbatches in S stages takes at least

    first + (m - 1) / sum of r over P           first = 1 / (fastest r) + (S - 1) (fastest hop, there and back)

since the stages of one microbatch follow each other, and the slowest of them is no faster than if work were divided in
proportion to speed. All replicas together compute M, so with D of them on the D x S fastest slots

    step >= first + (M - D) / sum of r + least exchange + least update

The exchange is that of the first stage, which holds one layer at least and is the last to end. The bound is the least
over all D and S; for the interleaved schedule M / sum of r takes the place of the first two terms. Memory, start-up
times and slower links are left out, so that over slow links it is far below.
"""

from dataclasses import replace

import numpy as np

from muster.cost.island import island_seconds
from muster.plan.train.dtfm.problem import Floats
from muster.plan.train.fleet import Fleet


def lower_bound(fleet: Fleet) -> float:
    """Seconds below which no step on these slots can be."""
    rates = np.sort(_rates(fleet))[::-1]
    together, exchange = np.concatenate([[0.0], np.cumsum(rates)]), _Exchange(fleet)
    in_turn = fleet.workload.schedule != "interleaved"
    best = np.inf
    for stages in range(1, min(fleet.count, fleet.num_layers) + 1):
        replicas = np.arange(1, min(fleet.count // stages, fleet.microbatches) + 1)
        once_s = 1 / float(rates[0]) + (stages - 1) * exchange.fastest_round_s if in_turn else 0.0
        more_s = (fleet.microbatches - replicas * in_turn) / together[replicas * stages]
        steps_s = once_s + more_s + exchange.least(len(replicas), stages)
        best = min(best, float(steps_s.min()))
    return best + min(float(fleet.seconds(kind)[2][0, 1]) for kind in range(len(fleet.caps)))


def _rates(fleet: Fleet) -> Floats:
    """Microbatches per second of each slot, if it held the whole model and nothing but arithmetic took time."""
    found = []
    for kind in range(len(fleet.caps)):
        node, devices = fleet.of_kind(kind)
        own = fleet.constants.of(node.device)
        constants = replace(own, step_s=0.0, cold_s=0.0, layer_s=0.0, row_s=0.0, memory=0.0, overlap=1.0)
        work = [replace(one.times(1 / devices), layers=0) for one in fleet.whole_work]
        found.append(1 / sum(island_seconds(one, fleet.shape, 0, node, 1, constants) for one in work))
    return np.array(found)[fleet.kinds]


class _Exchange:
    """The least that gradients of one layer can cost between D slots, by the nearest neighbours of each."""

    def __init__(self, fleet: Fleet) -> None:
        others = np.where(np.eye(fleet.count, dtype=bool), np.inf, 0.0)
        latency, byte = fleet.latency_s + others, fleet.byte_s + others
        self.fleet = fleet
        self.latency_s, self.byte_s = _nearest(latency + latency.T), _nearest(byte + byte.T)
        alone = fleet.count == 1
        self.one_way_s = (0.0, 0.0) if alone else (float(latency.min()), float(byte.min()))
        self.fastest_round_s = 0.0 if alone else float((fleet.round_s + others).min())

    def least(self, most: int, stages: int) -> Floats:
        """For 1 to `most` replicas."""
        replicas = np.arange(1, most + 1)
        last = self.fleet.num_layers if stages == 1 else 1
        part = self.fleet.gradient_bytes(0, last) / replicas
        sharded = self.latency_s[:most] + part * self.byte_s[:most]
        ring = 2 * (replicas - 1) * (self.one_way_s[0] + part * self.one_way_s[1])
        found: Floats = np.minimum(sharded, ring)
        return found


def _nearest(there_and_back: Floats) -> Floats:
    """[n]: the least that any slot pays for n others, each its nearest."""
    by_distance = np.sort(there_and_back, axis=1)[:, :-1]
    sums = np.concatenate([np.zeros((len(by_distance), 1)), np.cumsum(by_distance, axis=1)], axis=1)
    found: Floats = sums.min(axis=0)
    return found
