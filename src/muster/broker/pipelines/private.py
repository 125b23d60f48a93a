"""Where a private session of a client goes: roles for machines of the pool, so that none reads too much. Pure.

Machines that do nothing else are taken first, near ones before far ones, since each layer waits for a round trip. A
machine that is lost is replaced by one whose owner reads nothing yet; all others keep their roles, because who gets one
part of a text today and another part tomorrow has both.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from muster.broker.pipelines.job import Circumstances, Job, JobModel, JobOptions, Outcome
from muster.cost.measured import constants_of
from muster.errors import DoesNotFit, MusterError
from muster.plan.private.memory import private_bytes
from muster.plan.private.placement import PrivateMember, PrivatePlacement, place, with_spare
from muster.plan.quick.tables import PlanOptions
from muster.plan.replan.pinned import Pinned
from muster.spec.plan import Pipeline, Plan, PrivateSettings, Stage
from muster.spec.pool import Node, NodeId, Pool
from muster.wire.messages.private import AskPrivate

LATENCY_STEP_S = 0.005
"""Links that differ by less are alike, so that the same machines get the same roles again."""


def private_job(name: str, model: JobModel, asked: AskPrivate, client: NodeId) -> Job:
    options = JobOptions(min_nodes=1, settle_s=0.0, longest_settle_s=0.0)
    return Job(name, model, PrivatePlanning(asked, client), options=options)


@dataclass(frozen=True, slots=True)
class PrivatePlanning:
    asked: AskPrivate
    client: NodeId
    avoided: frozenset[NodeId] = frozenset()
    """Machines of which the client says that they failed."""

    def mend(self, job: Job, now: Circumstances) -> Outcome:
        held = now.held
        usable = [node for node in now.pool.nodes if node.id not in self.avoided]
        usable.sort(key=lambda node: (_remoteness(now.pool, node, usable), node.id))
        mine = held.nodes() if held is not None else ()
        idle = [node for node in usable if node.id in mine or node.id not in now.at_work]
        trouble = ""
        for nodes in (idle, usable):
            try:
                return Outcome(self._plan(job, self._with_room(job, nodes, held)))
            except MusterError as error:
                trouble = str(error)
        return Outcome(None, trouble)

    def _with_room(self, job: Job, nodes: Sequence[Node], held: Pipeline | None) -> PrivatePlacement:
        """On machines that have memory for their roles. Raises `DoesNotFit`."""
        few: list[str] = []
        while True:
            left = {node.id: node for node in nodes if node.id not in few}
            try:
                placement = self._placed(list(left.values()), held)
            except DoesNotFit as error:
                short = f" {len(few)} more lend too little memory for their roles." if few else ""
                raise DoesNotFit(f"{error}{short}") from None
            settings = self.settings(placement)
            needed = {node: private_bytes(job.model.shape, settings, mine) for node, mine in placement.roles.items()}
            short_of = [node for node, nbytes in needed.items() if nbytes > left[node].device.memory_bytes]
            if not short_of:
                return placement
            few += short_of

    def _placed(self, nodes: Sequence[Node], before: Pipeline | None) -> PrivatePlacement:
        """The first time, or the same roles with spares for machines that are not to be had any more."""
        members = [PrivateMember(node.id, node.party) for node in nodes]
        if before is None:
            return place(members, self.asked.min_gap, self.asked.colluders, self.asked.spares)
        held, here = before.private, {node.id for node in nodes}
        placement = PrivatePlacement(
            held.rule,
            dict(zip(before.nodes(), held.roles, strict=True)),
            dict(zip(before.nodes(), held.owners, strict=True)),
            "as before",
            self.asked.colluders,
            frozenset(held.past),
        )
        for lost in [node for node in before.nodes() if node not in here]:
            placement = with_spare(placement, lost, members)
        return placement

    def _plan(self, job: Job, placement: PrivatePlacement) -> Plan:
        shape = job.model.shape
        stages = tuple(Stage(node, 0, shape.num_layers) for node in placement.roles)
        owners, found = placement.worst()
        words = (
            f"{len(stages)} machines, {placement.design}; smallest gap {found.smallest_gap} for {len(owners)} owners"
        )
        return Plan(shape.name, (Pipeline(stages, self.settings(placement)),), explanation=words)

    def settings(self, placement: PrivatePlacement) -> PrivateSettings:
        rule, asked = placement.rule, self.asked
        return PrivateSettings(
            self.client, rule.cluster, rule.comp_nodes, rule.shards, tuple(placement.roles.values()),
            tuple(placement.owners[node] for node in placement.roles), asked.max_tokens, asked.cache_tokens,
            tuple(sorted(placement.past)),
        )  # fmt: skip

    def without(self, node: NodeId) -> "PrivatePlanning":
        return replace(self, avoided=self.avoided | {node})

    def improve(self, job: Job, now: Circumstances, proposals: Sequence[Plan]) -> Outcome:
        """Roles stay where they are: with others their owners would read more."""
        return Outcome(None)

    def pinned(self, job: Job, pool: Pool) -> tuple[Pinned, ...]:
        return ()

    def forecasting(self, job: Job, pool: Pool) -> PlanOptions:
        return replace(job.options.planning, workspace=job.model.workspace, constants=constants_of(pool))

    def search_options(self, job: Job, pool: Pool) -> PlanOptions:
        return self.forecasting(job, pool)


def _remoteness(pool: Pool, node: Node, others: Sequence[Node]) -> int:
    """The mean latency to the others, in steps."""
    links = [pool.link(node.id, other.id).latency_s for other in others if other.id != node.id]
    return round(sum(links) / len(links) / LATENCY_STEP_S) if links else 0
