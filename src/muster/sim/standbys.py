"""Machines that stand by, and who steps in where a pipeline lost one. Knows nothing of requests.

A pipeline that lost a machine looks for standbys that hold the lost layers as they are cut. Where there are none, who
asked for the simulation may plan anew.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

from muster.cost.memory import stage_bytes, workspace_of
from muster.sim.faults import FaultTimeline
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Pipeline, Plan, Stage
from muster.spec.pool import Node, NodeId, Pool

REPAIR_S = 10.0
"""Until a pipeline that lost a machine works again: to notice, to plan, to load layers."""


PlanAnew = Callable[[Pipeline, Pool], Pipeline | None]
"""A broken pipeline, and what is left of its machines with all idle ones -> how it goes on; None if it cannot."""


def stays_down(pipeline: Pipeline, machines: Pool) -> Pipeline | None:
    """Nobody plans anew."""
    return None


class Standbys:
    """Machines that are idle, and those that are gone."""

    def __init__(
        self,
        plan: Plan,
        pool: Pool,
        shape: ModelShape,
        faults: FaultTimeline,
        patience_s: float,
        plan_anew: PlanAnew = stays_down,
    ) -> None:
        self._pool, self._plan_anew = pool, plan_anew
        self._nodes = {node.id: node for node in pool.nodes}
        self._shape, self._faults, self._patience_s = shape, faults, patience_s
        self._idle = [node for node in plan.standbys if node in self._nodes]
        self._gone: set[NodeId] = set()

    def leave(self, node: NodeId) -> None:
        self._gone.add(node)
        if node in self._idle:
            self._idle.remove(node)

    def join(self, node: NodeId, holders: Iterable[NodeId]) -> None:
        """`holders` are the machines of all pipelines: one of them takes up its own place."""
        self._gone.discard(node)
        if node in self._nodes and node not in holders and node not in self._idle:
            self._idle.append(node)

    def mend(self, planned: Pipeline, broken: Pipeline, now_s: float) -> Pipeline | None:
        """How it goes on: as `planned` or as it was, with idle machines in some places; else planned anew."""
        mended = (
            self._filled(planned, broken, now_s)
            or self._filled(broken, broken, now_s)
            or self._planned_anew(broken, now_s)
        )
        if mended is not None:
            # Other devices of a machine may be at work in other pipelines.
            freed = [n for n in broken.nodes() if n not in self._gone and self._nodes[n].device_count == 1]
            self._idle = [node for node in dict.fromkeys((*self._idle, *freed)) if node not in mended.nodes()]
        return mended

    def can_restore(self, planned: Pipeline, present: Pipeline, now_s: float) -> bool:
        """Whether a pipeline that was planned anew can be again as it was planned at first."""
        return _sizes(planned) != _sizes(present) and self._filled(planned, present, now_s) is not None

    def _filled(self, pipeline: Pipeline, broken: Pipeline, now_s: float) -> Pipeline | None:
        """`pipeline` with idle machines in the places of those that cannot work; None if some place stays empty."""
        taken: list[NodeId] = []
        stages, own = list(pipeline.stages), {*broken.nodes(), *self._idle}
        others = [node for node in self._idle if node not in pipeline.nodes()]
        for i, stage in enumerate(stages):
            before = stages[i - 1].node
            if stage.node in own and self._works(stage.node, before, now_s):
                continue
            heirs = (n for n in others if n not in taken and self._works(n, before, now_s))
            heir = next((n for n in heirs if self._fits(self._nodes[n], stage, pipeline)), None)
            if heir is None:
                return None
            taken.append(heir)
            stages[i] = replace(stage, node=heir, devices=tuple(range(len(stage.devices))))
        return replace(pipeline, stages=tuple(stages))

    def _planned_anew(self, pipeline: Pipeline, now_s: float) -> Pipeline | None:
        """On machines that reach each other, as far as their neighbours in the broken pipeline can tell."""
        stages = pipeline.stages
        left = [s.node for i, s in enumerate(stages) if self._works(s.node, stages[i - 1].node, now_s)]
        able = {*left, *self._idle}
        nodes = tuple(node for node in self._pool.nodes if node.id in able)
        return self._plan_anew(pipeline, replace(self._pool, nodes=nodes)) if nodes else None

    def _works(self, node: NodeId, before: NodeId, now_s: float) -> bool:
        if node in self._gone:
            return False
        return self._faults.passable_s(before, node, now_s) - now_s <= self._patience_s

    def _fits(self, node: Node, stage: Stage, pipeline: Pipeline) -> bool:
        devices, work = len(stage.devices), pipeline.work
        need = stage_bytes(self._shape, stage.first, stage.last, work.cache_tokens, workspace_of(work), devices)
        return devices <= node.device_count and need <= node.device.memory_bytes


def _sizes(pipeline: Pipeline) -> list[int]:
    return [pipeline.work.cache_tokens, *(stage.first for stage in pipeline.stages)]
