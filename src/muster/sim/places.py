"""Which pipeline is up, on which machines, and who steps in. Knows nothing of requests.

A pipeline that lost a machine looks for standbys that hold the lost layers as they are cut; it does not plan anew.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from muster.cost.island import device_bytes
from muster.cost.memory import WorkspaceOptions
from muster.sim.faults import Weather
from muster.sim.line import Line
from muster.sim.ring import Ring
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Pipeline, Plan, Stage
from muster.spec.pool import Node, NodeId, Pool

REPAIR_S = 10.0
"""Until a pipeline that lost a machine works again: to notice, to plan, to load layers."""


@dataclass(slots=True, eq=False)
class Place:
    """One pipeline of the plan, through all its repairs."""

    index: int
    ring: Ring
    weight: float
    """Requests a second that it could answer."""
    line: Line | None = None
    load: int = 0
    """Requests that it has."""
    lines: list[Line] = field(default_factory=list)
    """All that it ever had."""


class Standbys:
    """Machines that are idle, and those that are gone."""

    def __init__(self, plan: Plan, pool: Pool, shape: ModelShape, weather: Weather, patience_s: float) -> None:
        self._nodes = {node.id: node for node in pool.nodes}
        self._shape, self._weather, self._patience_s = shape, weather, patience_s
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

    def mend(self, pipeline: Pipeline, now_s: float) -> Pipeline | None:
        """The pipeline with idle machines in the places of those that cannot go on; None if some place stays empty."""
        taken: list[NodeId] = []
        stages = list(pipeline.stages)
        for i, stage in enumerate(stages):
            before = stages[i - 1].node
            if self._works(stage.node, before, now_s):
                continue
            heirs = (n for n in self._idle if n not in taken and self._works(n, before, now_s))
            heir = next((n for n in heirs if self._fits(self._nodes[n], stage, pipeline)), None)
            if heir is None:
                return None
            taken.append(heir)
            stages[i] = replace(stage, node=heir, devices=tuple(range(len(stage.devices))))
        for heir in taken:
            self._idle.remove(heir)
        return replace(pipeline, stages=tuple(stages))

    def _works(self, node: NodeId, before: NodeId, now_s: float) -> bool:
        if node in self._gone:
            return False
        return self._weather.passable_s(before, node, now_s) - now_s <= self._patience_s

    def _fits(self, node: Node, stage: Stage, pipeline: Pipeline) -> bool:
        devices, tokens = len(stage.devices), pipeline.num_pages * pipeline.page_size
        need = sum(device_bytes(self._shape, stage.first, stage.last, tokens, WorkspaceOptions(), devices))
        return devices <= node.device_count and need <= node.device.memory_bytes
