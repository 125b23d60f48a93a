"""All pipelines of all jobs, and what happens to several of them at once. Pure."""

from collections.abc import Collection, Iterable, Iterator, Mapping

from muster.broker.events import Command, PipelineId
from muster.broker.members.membership import Membership
from muster.broker.pipelines.allocation import Allocation
from muster.broker.pipelines.job import Job
from muster.broker.pipelines.lifecycle import Lifecycle
from muster.broker.pipelines.placement import Placement
from muster.spec.plan import Pipeline, Plan
from muster.spec.pool import NodeId
from muster.wire.messages.calibrate import CodecsChecked


class Pipelines:
    def __init__(
        self, members: Membership, jobs: Iterable[Job], epoch: int = 0, keep: Mapping[PipelineId, Pipeline] = {}
    ) -> None:
        """`epoch` and `keep` are what a head that was restarted remembers."""
        self.jobs = {job.name: job for job in jobs}
        self.allocation = Allocation(members, self.live, epoch)
        ids = [PipelineId(job.name, number) for job in self.jobs.values() for number in range(job.pipelines)]
        self._lifecycles = {id: Lifecycle(id, self.jobs[id.job], members, self.allocation, keep.get(id)) for id in ids}
        self._epochs: set[int] = set()
        """That were live after the last event."""

    def __iter__(self) -> Iterator[Lifecycle]:
        return iter(self._lifecycles.values())

    def __getitem__(self, id: PipelineId) -> Lifecycle:
        return self._lifecycles[id]

    def of_job(self, job: str) -> list[Lifecycle]:
        return [lifecycle for lifecycle in self if lifecycle.id.job == job]

    def live(self) -> list[Placement]:
        """Of each pipeline, the placement that works before the one that loads."""
        return [placement for lifecycle in self for placement in lifecycle.live()]

    def serving(self) -> list[Placement]:
        return [lifecycle.serving for lifecycle in self if lifecycle.serving is not None]

    def pending(self) -> list[Placement]:
        return [lifecycle.pending for lifecycle in self if lifecycle.pending is not None]

    def of_epoch(self, epoch: int, node: NodeId) -> Placement | None:
        """The live placement of this epoch if the node holds a stage of it."""
        return next((p for p in self.live() if p.epoch == epoch and p.holds(node)), None)

    # --- what happened ------------------------------------------------------------------------------------------------

    def usable(self, now_s: float) -> None:
        """The pool gained something: a machine, memory, or good standing."""
        for lifecycle in self:
            lifecycle.usable(now_s)

    def look_again(self) -> None:
        """Something better may be possible now."""
        for lifecycle in self:
            lifecycle.look_again()

    def progressed(self, epoch: int, node: NodeId, done: int, total: int, now_s: float) -> list[Command]:
        placement = self.of_epoch(epoch, node)
        return self[placement.id].progressed(placement, node, done, total, now_s) if placement else []

    def loaded(self, epoch: int, node: NodeId, now_s: float) -> list[Command]:
        placement = self.of_epoch(epoch, node)
        return self[placement.id].loaded(placement, node, now_s) if placement else []

    def codecs_checked(self, found: CodecsChecked, node: NodeId, now_s: float) -> list[Command]:
        placement = self.of_epoch(found.epoch, node)
        if placement is None or placement.checked_s is None or node != placement.nodes[0]:
            return []
        lifecycle = self[placement.id]
        return lifecycle.codecs_checked(placement, found, now_s) if placement is lifecycle.pending else []

    def lost(self, nodes: Collection[NodeId], now_s: float) -> list[Command]:
        """These nodes no longer hold anything."""
        return [command for lifecycle in self for command in lifecycle.lost(nodes, now_s)]

    def end(self, placement: Placement, now_s: float) -> list[Command]:
        """Give up a placement, if that has not happened yet."""
        lifecycle = self[placement.id]
        return lifecycle.end(placement, now_s) if placement in lifecycle.live() else []

    def stalled(self, now_s: float) -> list[tuple[Placement, NodeId]]:
        """Loads that have not got further for too long."""
        return [one for lifecycle in self for one in lifecycle.stalled(now_s)]

    def found(self, id: PipelineId, plan: Plan | None, now_s: float) -> list[Command]:
        return self[id].found(plan, now_s)

    # --- what to do about it ------------------------------------------------------------------------------------------

    def decide(self, now_s: float) -> list[Command]:
        """Plan whatever is missing or could be better."""
        commands = [command for lifecycle in self for command in lifecycle.decide(now_s)]
        epochs = {placement.epoch for placement in self.live()}
        if len(self._lifecycles) > 1 and self._epochs - epochs:
            self.look_again()  # what one pipeline let go of may be of use to another
        self._epochs = epochs
        return commands
