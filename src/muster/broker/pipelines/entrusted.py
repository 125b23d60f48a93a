"""How much of a model is entrusted to machines on trial: a part, where those that are established can do without. Pure.

The limit is one of memory, which every planner respects: half of what the smallest placement of the whole model takes,
and no more than fits what the machine has shown. Whoever cannot hold the whole model cannot see it alone. Machines that
the operator has pinned to layers get those layers: that is the operator's word, too.
"""

from collections.abc import Callable
from dataclasses import replace

from muster.broker.members.links import broken_among
from muster.broker.members.membership import Membership
from muster.broker.pipelines.job import Job
from muster.cost.memory import stage_bytes
from muster.plan.replan.pinned import is_meant
from muster.spec.pool import Node, Pool

SHARE = 0.5
"""Of the model."""
Suffices = Callable[[Pool], bool]
"""Whether a pool can do the job."""


def whole_bytes(job: Job) -> int:
    """What the smallest placement on a single machine takes."""
    shape, planning = job.model.shape, job.options.planning
    tokens = planning.min_pages(shape) * planning.page_size
    return stage_bytes(shape, 0, shape.num_layers, tokens, job.model.workspace)


class Entrusted:
    def __init__(self, members: Membership) -> None:
        self._members = members
        self._asked: tuple[object, bool] = (None, False)
        """The last question whether a pool suffices, and the answer."""

    def limited(
        self, pool: Pool, job: Job, suffices: Suffices, now_s: float, *, always: bool = False
    ) -> tuple[Pool, bool]:
        """What a plan may use of the pool, and whether all of it: there is nobody else, or nobody is on trial.

        `always`: others serve already, so nobody is needed that much.
        """
        pins = job.options.pins
        unpinned = [node for node in pool.nodes if not any(is_meant(pin, node) for pin in pins)]
        on_trial = {node.id for node in unpinned if self._members.trust(node.id, now_s) == "on trial"}
        others = tuple(node for node in pool.nodes if node.id not in on_trial)
        if not on_trial:
            return pool, not always
        if not always and not (others and self._suffice(replace(pool, nodes=others), job, suffices)):
            return pool, True
        most_bytes = int(SHARE * whole_bytes(job))
        nodes = [self._capped(node, most_bytes, now_s) if node.id in on_trial else node for node in pool.nodes]
        return replace(pool, nodes=tuple(node for node in nodes if node.device.memory_bytes > 0)), False

    def _capped(self, node: Node, most_bytes: int, now_s: float) -> Node:
        record = self._members.record(node.id, now_s)
        most_bytes = int(min(most_bytes, record.standing.entrusted_bytes(record.proven_bytes)))
        return replace(node, device=replace(node.device, memory_bytes=min(node.device.memory_bytes, most_bytes)))

    def _suffice(self, pool: Pool, job: Job, suffices: Suffices) -> bool:
        """Planning takes a moment, and the answer depends on little: memory, and links that are down."""
        memory = tuple((node.id, node.device.memory_bytes) for node in pool.nodes)
        question = (job.model.shape.dtype, memory, broken_among(pool))
        if self._asked[0] != question:
            self._asked = (question, suffices(pool))
        return self._asked[1]
