"""The step time of a layout: the closed form of `sim/train/pipeline_time.py` on arrays, changed row by row.

A *layout* is a grid of slots, [replica, stage], and the layers at which all replicas are cut. Microbatches go to
replicas so that all end together; the search lets them be fractions, which makes the price smooth, and `whole` deals
them out whole for the plan.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from muster.plan.train.dtfm.problem import Floats, Ints
from muster.plan.train.fleet import Fleet
from muster.plan.train.memory import in_flight
from muster.sim.train.pipeline_costs import Exchange
from muster.sim.train.pipeline_time import CHUNKS

SMOOTHING = 0.02
"""Share of the means in what a search minimises, so that it sees a way down where the slowest does not change."""


@dataclass(frozen=True, slots=True)
class ReplicaTime:
    """One replica: seconds(m) = whole + the most of (m - 1) beat and, of each wait, offset + (m - 1) each."""

    whole_s: float
    """Of the first microbatch."""
    beat_s: float
    waits: tuple[tuple[int, float, float], ...]
    """For what is on its way and must come back: (least m - 1 with which it counts, offset, each)."""
    ends_s: tuple[float, ...]
    """How long before the first stage each stage has ended."""

    pace_s: float
    """Of one more microbatch, on the mean: the beat, or the longest wait."""

    def seconds(self, microbatches: int) -> float:
        more = microbatches - 1
        waiting = [offset_s + more * each_s for fewest, offset_s, each_s in self.waits if more >= fewest]
        return self.whole_s + max([more * self.beat_s, *waiting])


@dataclass(frozen=True, eq=False, slots=True)
class Layout:
    """`grid[replica, stage]` is a slot; the others are spare."""

    grid: Ints
    cuts: tuple[int, ...]
    """0 to the number of layers, one more than stages."""

    @property
    def replicas(self) -> int:
        return int(self.grid.shape[0])

    @property
    def stages(self) -> int:
        return int(self.grid.shape[1])


@dataclass(frozen=True, eq=False, slots=True)
class Priced:
    layout: Layout
    lanes: tuple[ReplicaTime, ...]
    exchange_s: tuple[float, ...]
    """By stage."""
    update_s: tuple[float, ...]
    """The optimizer, by stage, on the slowest replica."""
    step_s: float
    """With fractions of microbatches."""
    energy: float
    """What a search minimises."""


class Prices:
    def __init__(self, fleet: Fleet, exchange: Exchange = "best") -> None:
        self.fleet, self.exchange = fleet, exchange
        self.evaluations = 0

    def priced(self, layout: Layout, before: Priced | None = None) -> Priced | None:
        """None if a stage does not fit, or a link is down. What did not change since `before` is not worked out again.

        `before` must have the same shape; its rows and columns are compared.
        """
        self.evaluations += 1
        if before is not None and (before.layout.grid.shape != layout.grid.shape or before.layout.cuts != layout.cuts):
            before = None
        if not self._fits(layout, before):
            return None
        kept = None if before is None else before.layout.grid != layout.grid
        rows = np.ones(layout.replicas, dtype=bool) if kept is None else kept.any(axis=1)
        columns = np.ones(layout.stages, dtype=bool) if kept is None else kept.any(axis=0)
        lanes = [
            self.lane(layout.grid[d], layout.cuts) if rows[d] or before is None else before.lanes[d]
            for d in range(layout.replicas)
        ]
        exchange = [
            self._exchange(layout, j) if columns[j] or before is None else before.exchange_s[j]
            for j in range(layout.stages)
        ]
        update = [
            self._update(layout, j) if columns[j] or before is None else before.update_s[j]
            for j in range(layout.stages)
        ]
        return self._together(layout, tuple(lanes), tuple(exchange), tuple(update))

    def alive(self, stage: int, stages: int, replicas: int) -> int:
        return in_flight(self.fleet.workload, stage, stages, -(-self.fleet.microbatches // replicas))

    def _fits(self, layout: Layout, before: Priced | None) -> bool:
        fleet, stages = self.fleet, layout.stages
        if layout.replicas > fleet.microbatches:
            return False
        for j in range(stages):
            column = layout.grid[:, j]
            if before is not None and (before.layout.grid[:, j] == column).all():
                continue
            alive = self.alive(j, stages, layout.replicas)
            for kind in set(fleet.kinds[column].tolist()):
                if not np.isfinite(fleet.fits(kind, alive)[layout.cuts[j], layout.cuts[j + 1]]):
                    return False
        return True

    def lane(self, row: Ints, cuts: Sequence[int]) -> ReplicaTime:
        fleet = self.fleet
        figures = [fleet.seconds(kind) for kind in fleet.kinds[row].tolist()]
        ranges = list(pairwise(cuts))
        forth = [float(times[0][span]) for times, span in zip(figures, ranges, strict=True)]
        back = [float(times[1][span]) for times, span in zip(figures, ranges, strict=True)]
        here, there = row[:-1], row[1:]
        hops = fleet.round_s[here, there].tolist()
        wires = fleet.wire_s[here, there].tolist(), fleet.wire_s[there, here].tolist()
        ends = [0.0]
        for seconds, hop in zip(back, fleet.back_s[here, there].tolist(), strict=False):
            ends.append(ends[-1] + seconds + hop)
        if fleet.workload.schedule == "interleaved":
            both = [a + b for a, b in zip(forth, back, strict=True)]
            return replace(self._interleaved(both, hops, wires, row), ends_s=tuple(ends))
        return replace(self._rhythm(forth, back, hops, wires), ends_s=tuple(ends))

    def _rhythm(
        self, forth: list[float], back: list[float], hops: list[float], wires: tuple[list[float], list[float]]
    ) -> ReplicaTime:
        both = [a + b for a, b in zip(forth, back, strict=True)]
        whole_s, schedule = sum(both) + sum(hops), self.fleet.workload.schedule
        if schedule == "gpipe":
            beat_s = max([*forth, *wires[0]]) + max([*back, *wires[1]])
            return ReplicaTime(whole_s, beat_s, (), (), beat_s)
        beat_s = max([*both, *wires[0], *wires[1]])
        # A window that never waits adds nothing.
        waits = tuple((w, 0.0, trip_s / w) for w, trip_s in _trips(both, hops) if trip_s > w * beat_s)
        return ReplicaTime(whole_s, beat_s, waits, (), max([beat_s, *(each_s for *_, each_s in waits)]))

    def _interleaved(
        self, both: list[float], hops: list[float], wires: tuple[list[float], list[float]], row: Ints
    ) -> ReplicaTime:
        """A rule of thumb, mostly within a fifth of what walking through the schedule gives, worse on thin links.

        Rounds of one microbatch per stage follow each other by v / (v + 1) of one's way through all v chunks and back.
        """
        fleet, wraps, stages = self.fleet, [], len(both)
        if stages > 1:
            last, first = int(row[-1]), int(row[0])
            wraps = [float(fleet.round_s[last, first])]
            wires = [*wires[0], float(fleet.wire_s[last, first])], [*wires[1], float(fleet.wire_s[first, last])]
        beat_s = max([*both, *(CHUNKS * wire for wire in (*wires[0], *wires[1]))])
        hops_s = CHUNKS * sum(hops) + (CHUNKS - 1) * sum(wraps)
        whole_s = beat_s + (sum(both) - max(both)) / CHUNKS + hops_s
        trip_s = sum(both) + hops_s
        each_s = trip_s * CHUNKS / (CHUNKS + 1) / stages
        offset_s = trip_s - (stages - 1) * each_s + (stages - 1) * beat_s / CHUNKS - whole_s
        return ReplicaTime(whole_s, beat_s, ((0, offset_s, each_s),), (), max(beat_s, each_s))

    def _exchange(self, layout: Layout, stage: int) -> float:
        """As `sim.train.pipeline_costs.exchange_seconds`, on arrays; the ring goes by the order of the replicas."""
        count, fleet = layout.replicas, self.fleet
        if count == 1:
            return 0.0
        column = layout.grid[:, stage]
        part = fleet.gradient_bytes(layout.cuts[stage], layout.cuts[stage + 1]) / count
        after = np.roll(column, -1)
        ring_s = 2 * (count - 1) * float((fleet.latency_s[column, after] + part * fleet.byte_s[column, after]).max())
        if self.exchange == "ring":
            return ring_s
        pairs = np.ix_(column, column)
        message = fleet.latency_s[pairs] + part * fleet.byte_s[pairs]
        sharded_s = float((message.sum(axis=0) + message.sum(axis=1)).max())
        return sharded_s if self.exchange == "sharded" else min(sharded_s, ring_s)

    def _update(self, layout: Layout, stage: int) -> float:
        span = layout.cuts[stage], layout.cuts[stage + 1]
        kinds = set(self.fleet.kinds[layout.grid[:, stage]].tolist())
        return max(float(self.fleet.seconds(kind)[2][span]) for kind in kinds)

    def _together(
        self, layout: Layout, lanes: tuple[ReplicaTime, ...], exchange: tuple[float, ...], update: tuple[float, ...]
    ) -> Priced | None:
        whole = np.array([lane.whole_s for lane in lanes])
        pace = np.array([lane.pace_s for lane in lanes])
        if not (np.isfinite(whole) & np.isfinite(pace)).all():
            return None
        pipeline_s = max(level(whole, pace, self.fleet.microbatches), float(whole.max()))
        ends = np.array([lane.ends_s for lane in lanes])
        finish = pipeline_s - ends.min(axis=0) + np.array(exchange) + np.array(update)
        step_s = float(finish.max())
        means = float(finish.mean()) + float((whole + pace).mean())
        return Priced(layout, lanes, exchange, update, step_s, step_s + SMOOTHING * means)

    def whole(self, priced: Priced) -> tuple[tuple[int, ...], float]:
        """Microbatches of each replica, whole ones, and the step they make."""
        layout, lanes = priced.layout, priced.lanes
        counts = deal(lanes, self.fleet.microbatches, self._most(layout))
        spans = [lane.seconds(count) for lane, count in zip(lanes, counts, strict=True)]
        ends = np.array(spans)[:, None] - np.array([lane.ends_s for lane in lanes])
        finish = ends.max(axis=0) + np.array(priced.exchange_s) + np.array(priced.update_s)
        return counts, float(finish.max())

    def _most(self, layout: Layout) -> int:
        """GPipe keeps all microbatches of a replica in memory, so each gets the same number, which was checked."""
        if self.fleet.workload.schedule == "gpipe":
            return -(-self.fleet.microbatches // layout.replicas)
        return self.fleet.microbatches


def _trips(both: list[float], hops: list[float]) -> Iterator[tuple[int, float]]:
    """Numbers of neighbouring stages, and the longest round trip over so many."""
    until = np.concatenate([[0.0], np.cumsum(both)])
    between = np.concatenate([[0.0], np.cumsum(hops)])
    for window in range(2, len(both) + 1):
        trips = until[window:] - until[:-window] + between[window - 1 :] - between[: len(between) - window + 1]
        yield window, float(trips.max())


def level(whole: Floats, pace: Floats, microbatches: int) -> float:
    """The time at which all lanes end together: sum of 1 + (T - whole) / pace is the number of microbatches."""
    return float((microbatches - len(whole) + (whole / pace).sum()) / (1 / pace).sum())


def deal(lanes: Sequence[ReplicaTime], microbatches: int, most: int) -> tuple[int, ...]:
    """Whole numbers that add up, each from 1 to `most`: near the level, then one by one where it costs least."""
    whole = np.array([lane.whole_s for lane in lanes])
    pace = np.array([lane.pace_s for lane in lanes])
    counts = np.clip(np.floor((level(whole, pace, microbatches) - whole) / pace) + 1, 1, most).astype(np.int64)
    while (short := microbatches - int(counts.sum())) != 0:
        step = 1 if short > 0 else -1
        able = counts < most if step > 0 else counts > 1
        after = [lane.seconds(int(count) + step) for lane, count in zip(lanes, counts, strict=True)]
        now = [lane.seconds(int(count)) for lane, count in zip(lanes, counts, strict=True)]
        worth = np.where(able, after, np.inf) if step > 0 else -np.where(able, now, -np.inf)
        counts[int(np.argmin(worth))] += step
    return tuple(counts.tolist())
