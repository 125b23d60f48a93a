"""All pipelines of all jobs, and what happens to several of them at once. Pure.

A job may have more pipelines than it must: as long as machines that have nothing to do suffice, they make another
(`grow`), and one that is lost and cannot be repaired is given up while others serve (`dissolve`).
"""

from collections.abc import Collection, Iterable, Iterator, Mapping

from muster.broker.events import Command, Dissolved, PipelineId, Save
from muster.broker.members.links import broken_among
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
        self._members = members
        ids = [PipelineId(job.name, number) for job in self.jobs.values() for number in range(job.pipelines)]
        more = [id for id in keep if id.job in self.jobs and id.number < self.jobs[id.job].most_pipelines]
        self._lifecycles = {id: self._made(id, keep.get(id)) for id in dict.fromkeys([*ids, *more])}
        self._epochs: set[int] = set()
        """That were live after the last event."""
        self._grow_s: dict[str, float] = {}
        """Of each job, when to see next whether idle machines make another pipeline."""
        self._in_vain: dict[str, tuple[object, float]] = {}
        """Prospects of machines that were found not to, and until when that is believed: links are measured anew."""

    def _made(self, id: PipelineId, keep: Pipeline | None = None) -> Lifecycle:
        job = self.jobs[id.job]

        def others() -> list[Lifecycle]:
            return [other for other in self.of_job(id.job) if other.id != id]

        extra = id.number >= job.pipelines
        return Lifecycle(id, job.for_pipeline(id.number), self._members, self.allocation, keep, others, is_extra=extra)

    def add(self, job: Job, now_s: float) -> None:
        """One more, to be placed at once, while the others go on."""
        self.jobs[job.name] = job
        id = PipelineId(job.name)
        lifecycle = self._lifecycles[id] = self._made(id)
        lifecycle.usable(now_s)
        lifecycle.trouble = ""

    def drop(self, name: str, now_s: float) -> list[Command]:
        """Nobody wants what this job does any more."""
        commands: list[Command] = []
        for lifecycle in self.of_job(name):
            for placement in reversed(lifecycle.live()):
                commands += lifecycle.end(placement, now_s)
            del self._lifecycles[lifecycle.id]
            commands.append(Save(Dissolved(lifecycle.id, self.allocation.next_epoch())))
        del self.jobs[name]
        return commands

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
        return self[id].found(plan, now_s) if id in self._lifecycles else []

    # --- what to do about it ------------------------------------------------------------------------------------------

    def decide(self, now_s: float) -> list[Command]:
        """Plan whatever is missing or could be better."""
        commands = [command for lifecycle in list(self) for command in lifecycle.decide(now_s)]
        for job in self.jobs.values():
            if job.most_pipelines > job.pipelines:
                commands += self._dissolve(job, now_s) + self._grow(job, now_s)
        epochs = {placement.epoch for placement in self.live()}
        if len(self._lifecycles) > 1 and self._epochs - epochs:
            self.look_again()  # what one pipeline let go of may be of use to another
        self._epochs = epochs
        return commands

    def _dissolve(self, job: Job, now_s: float) -> list[Command]:
        """Give up what is lost and cannot be repaired while others serve; its machines are then free for them."""
        mine = self.of_job(job.name)
        if not any(lifecycle.live() for lifecycle in mine):
            return []
        lost = [lifecycle for lifecycle in mine if lifecycle.is_extra and lifecycle.waits_in_vain(now_s)]
        for lifecycle in lost:
            del self._lifecycles[lifecycle.id]
        if lost:
            self.look_again()
        return [Save(Dissolved(lifecycle.id, self.allocation.next_epoch())) for lifecycle in lost]

    def _grow(self, job: Job, now_s: float) -> list[Command]:
        """One more pipeline, where machines that have nothing to do suffice and no other waits for them."""
        mine = self.of_job(job.name)
        if len(mine) >= job.most_pipelines or now_s < self._grow_s.get(job.name, now_s):
            return []
        if not all(lifecycle.live() and lifecycle.has_settled(now_s) for lifecycle in mine):
            return []
        taken = {lifecycle.id.number for lifecycle in mine}
        id = PipelineId(job.name, next(number for number in range(job.most_pipelines) if number not in taken))
        lifecycle = self._made(id)
        pool = lifecycle.pool(now_s)
        prospects = pool.nodes, broken_among(pool)
        before, until_s = self._in_vain.get(job.name, (None, now_s))
        if prospects == before and now_s < until_s:
            self._grow_s[job.name] = now_s + job.options.retry_s
            return []
        commands = lifecycle.decide(now_s)
        if lifecycle.live():
            self._lifecycles[id] = lifecycle
            return commands
        self._grow_s[job.name] = now_s + job.options.retry_s
        self._in_vain[job.name] = prospects, now_s + job.options.rebalance_s
        return []
