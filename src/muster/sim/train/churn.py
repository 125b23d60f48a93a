"""Which pipelines train while machines come and go. Knows nothing of how long a step takes."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import ceil, inf

from muster.sim.faults import FaultTimeline
from muster.sim.standbys import Standbys
from muster.spec.faults import CutLink, Fault, Join, Leave
from muster.spec.plan import Pipeline
from muster.spec.pool import NodeId
from muster.spec.workload import TrainWorkload


class Churn:
    """`pipelines` are those at work; what others computed is spread over them."""

    def __init__(
        self,
        pipelines: Sequence[Pipeline],
        standbys: Standbys,
        faults: FaultTimeline,
        repair_s: float,
        workload: TrainWorkload,
    ) -> None:
        self.pipelines = tuple(pipelines)
        self.lost_steps = 0
        self._all = list(pipelines)
        self._works = [True] * len(self._all)
        self._standbys, self._repair_s, self._workload = standbys, repair_s, workload
        self._coming: list[Fault[NodeId]] = list(faults.faults)
        self._faults = faults.faults
        self._changed = False

    def is_new(self, now_s: float) -> bool:
        """Whether `pipelines` are others than at the last call, also because a machine came that was missing."""
        self._take_note(now_s)
        if not all(self._works):
            self._mend(now_s)
        changed, self._changed = self._changed, False
        return changed

    def first_loss(self, start_s: float, end_s: float) -> float | None:
        """When a step from `start_s` to `end_s` is lost; None if it is not."""
        times = (fault.at_s for fault in self._faults if start_s <= fault.at_s < end_s and self._is_fatal(fault))
        return min(times, default=None)

    def _is_fatal(self, fault: Fault[NodeId]) -> bool:
        if isinstance(fault, Leave):
            return any(fault.node in pipeline.nodes() for pipeline in self.pipelines)
        if not isinstance(fault, CutLink) or fault.until_s - fault.at_s <= self._repair_s:
            return False
        ends = {fault.source, fault.target}
        return any(ends == {one, other} for p in self.pipelines for one, other in self._hops(p))

    def _hops(self, pipeline: Pipeline) -> Iterator[tuple[NodeId, NodeId]]:
        nodes = pipeline.nodes()
        wraps = self._workload.schedule == "interleaved"
        return pairwise((*nodes, nodes[0]) if wraps else nodes)

    def restart(self, lost_s: float) -> float:
        """When training goes on after a loss, in the first moment at which some pipeline is whole; maybe never."""
        self.lost_steps += 1
        when_s = lost_s + self._repair_s
        while when_s < inf:
            self._take_note(when_s)
            if self._mend(when_s):
                return when_s
            changes = [
                f.at_s if isinstance(f, Join) else f.until_s for f in self._faults if isinstance(f, Join | CutLink)
            ]
            when_s = min((change for change in changes if change > when_s), default=inf) + self._repair_s
        return inf

    def _take_note(self, now_s: float) -> None:
        while self._coming and self._coming[0].at_s <= now_s:
            fault = self._coming.pop(0)
            if isinstance(fault, Leave):
                self._standbys.leave(fault.node)
            elif isinstance(fault, Join):
                self._standbys.join(fault.node, {node for pipeline in self._all for node in pipeline.nodes()})

    def _mend(self, now_s: float) -> bool:
        """Fill the empty places; whether any pipeline is whole."""
        for i, pipeline in enumerate(self._all):
            mended = self._standbys.mend(pipeline, pipeline, now_s)
            self._works[i] = mended is not None
            self._all[i] = mended or pipeline
        whole = [pipeline for pipeline, works in zip(self._all, self._works, strict=True) if works]
        if whole and (shared := self._share(whole)) != self.pipelines:
            self.pipelines, self._changed = shared, True
        return bool(whole)

    def _share(self, whole: Sequence[Pipeline]) -> tuple[Pipeline, ...]:
        """All microbatches over these, in proportion; in whole rounds where the schedule deals them out."""
        more = sum(p.train.num_microbatches for p in self._all) / sum(p.train.num_microbatches for p in whole)
        rounds = [len(p.stages) if self._workload.schedule == "interleaved" else 1 for p in whole]
        return tuple(
            p.with_work(num_microbatches=ceil(p.train.num_microbatches * more / size - 1e-9) * size)
            for p, size in zip(whole, rounds, strict=True)
        )
