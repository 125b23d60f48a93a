"""One pipeline of a job: when to plan, whom to tell, when to switch. Pure; knows nothing of connections' frames.

    waiting ── a plan ──> loading ── everybody has loaded ──> working ── something is lost ──> waiting
                                                                └── something better: loading beside it ──> switch

At most two placements of it live at once: the one that works (`serving`) and the one that loads (`pending`). Each has
an epoch of its own, larger than any before. What is lost is repaired at once; what could merely be better waits for
`rebalance_s` and must be worth its disturbance, because every switch makes running streams start over on the new
placement. The more often that happens, the longer the next look waits (`pauses`).
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace

from muster.broker.events import Command, PipelineId, Placed, Route, RouteChanged, Save, Search, Send
from muster.broker.members.membership import Membership
from muster.broker.pipelines.allocation import Allocation
from muster.broker.pipelines.codec_checks import CHECK_S, CodecChecks, milder, refusal
from muster.broker.pipelines.entrusted import Entrusted
from muster.broker.pipelines.job import Circumstances, Job, Outcome
from muster.broker.pipelines.pauses import Pauses
from muster.broker.pipelines.placement import Load, Placement
from muster.broker.pipelines.settling import Settling
from muster.cost.codec_table import LINK_CODECS
from muster.plan.quick.tables import PlanOptions
from muster.plan.replan.pinned import Pinned, without
from muster.spec.plan import Pipeline, Plan
from muster.spec.pool import NodeId, Pool
from muster.wire.messages.calibrate import CheckCodecs, CodecsChecked
from muster.wire.messages.placement import Release

NOBODY_YET = "No machine has joined yet; start one with `muster join` and the ticket."


class Lifecycle:
    def __init__(
        self,
        id: PipelineId,
        job: Job,
        members: Membership,
        allocation: Allocation,
        keep: Pipeline | None = None,
        others: Callable[[], Sequence["Lifecycle"]] = lambda: (),
        *,
        is_extra: bool = False,
    ) -> None:
        """`keep` is what a head that was restarted remembers of it; `others` are the other pipelines of its job.

        An extra one is there while machines suffice, and takes nothing that would be entrusted only in need.
        """
        self.id, self.job, self.is_extra = id, job, is_extra
        self._others = others
        self._members, self._allocation = members, allocation
        self._entrusted = Entrusted(members)
        self.serving: Placement | None = None
        self.pending: Placement | None = None
        self.keep = keep
        """What worked last; its machines have the weights of their layers."""
        self.trouble = NOBODY_YET
        """Why nothing works, in one sentence."""
        self.failure = ""
        """What the last machine that is not to be had any more failed at."""
        self.pin_trouble = ""
        """Why not even the pins whose machines are here can be kept."""
        self.pool_changed = False
        self._next_attempt_s = 0.0
        self.searching = False
        self._pauses = Pauses(job.options.rebalance_s, job.options.longest_rebalance_s)
        self._settling = Settling(job.options, is_over=is_extra and keep is None)
        self.codec_checks = CodecChecks()
        self._hasty = False
        """Whether the next placement need not wait until the newcomers say that they have their weights."""

    def live(self) -> list[Placement]:
        return [placement for placement in (self.serving, self.pending) if placement is not None]

    def waits_in_vain(self, now_s: float) -> bool:
        """Whether it does nothing, and nothing can be done about it now."""
        return not self.live() and self._settling.is_over and now_s < self._next_attempt_s

    def has_settled(self, now_s: float) -> bool:
        """Whether nobody has joined just now: machines tend to come in a group."""
        return self._settling.is_over and self._settling.is_quiet(now_s)

    # --- what happened ------------------------------------------------------------------------------------------------

    def usable(self, now_s: float) -> None:
        """The pool gained something: a machine, memory, or good standing."""
        self.pool_changed = True
        self._settling.usable(now_s)

    def look_again(self) -> None:
        """Something better may be possible now."""
        self.pool_changed = True

    def failed(self, sentence: str) -> None:
        """A machine could not do its part."""
        self.failure = self.trouble = sentence

    def left_out(self, sentence: str) -> None:
        """A machine may not do its part for a while."""
        self.failure = sentence

    def progressed(self, placement: Placement, node: NodeId, done: int, total: int, now_s: float) -> list[Command]:
        load = placement.loads[node]
        if done > load.done_bytes:
            load.heard_s = now_s
        load.done_bytes, load.total_bytes = done, total
        load.has_weights = done >= total
        return self._advance(now_s)

    def loaded(self, placement: Placement, node: NodeId, now_s: float) -> list[Command]:
        placement.loads[node].loaded = True
        self._members.proved(node, self._allocation.loaded_bytes(node), now_s)
        return self._advance(now_s)

    def codecs_checked(self, placement: Placement, found: CodecsChecked | None, now_s: float) -> list[Command]:
        """What came of the calibration run of the pending placement; None where nothing did in time."""
        check = self.codec_checks.judge(placement.pipeline, found)
        if check.passed:
            return self._switch(placement, now_s)
        planning = self.job.options.planning
        left = milder(planning.codecs, check)
        self.job = replace(self.job, options=replace(self.job.options, planning=replace(planning, codecs=left)))
        self.failed(f"{check.sentence}; planning with a milder codec." if left else refusal(check, LINK_CODECS))
        self.pool_changed = True
        return self.end(placement, now_s)

    def lost(self, nodes: Collection[NodeId], now_s: float) -> list[Command]:
        """These nodes no longer hold anything: end every placement that counted on one of them."""
        commands: list[Command] = []
        # The pending one first: it must not be moved forward on behalf of a node that is gone.
        for placement in reversed(self.live()):
            if any(node in placement.nodes for node in nodes):
                commands += self.end(placement, now_s)
        return commands

    def end(self, placement: Placement, now_s: float) -> list[Command]:
        """Give up a placement: everybody who holds a part of it lets go."""
        commands: list[Command] = []
        if placement is self.serving:
            self.serving = None
            self.keep = placement.pipeline
            commands.append(RouteChanged(self.id, None))
        else:
            self.pending = None
            if self.serving is None:
                self.keep = placement.pipeline
        commands += self._release(placement, placement.loads)
        self._next_attempt_s = now_s
        return commands + self._advance(now_s)

    def give_up_waiting(self, placement: Placement, now_s: float) -> list[Command]:
        """A newcomer has its weights and waited in vain for a neighbour that is deferred: next time, switch at once."""
        self._hasty = True
        return self.end(placement, now_s)

    def stalled(self, now_s: float) -> list[tuple[Placement, NodeId]]:
        """Loads that have not got further for too long."""
        if self.pending is None:
            return []
        options = self.job.options
        return [
            (self.pending, node)
            for node, load in self.pending.loads.items()
            if not load.loaded
            and (now_s - load.heard_s > options.load_stall_s or now_s - load.started_s > options.longest_load_s)
        ]

    # --- what to do about it ------------------------------------------------------------------------------------------

    def decide(self, now_s: float) -> list[Command]:
        """Plan if something is missing or could be better."""
        if self.pending is not None:
            return self._check_patience(self.pending, now_s)
        if not self.job.options.planning.codecs:
            return []  # the operator wants one codec only, and it changes too much
        if self.serving is None:
            return self._place(now_s)
        leaving = {node for node in self.serving.nodes if self._members.members[node].draining}
        if leaving:
            return self._move_away(now_s)
        if self.pool_changed and not self._is_searching() and self._pauses.is_over(now_s, self._running(self.serving)):
            return self._rebalance(now_s)
        return []

    def _is_searching(self) -> bool:
        """Or another pipeline of its job: each search takes a processor of the head."""
        return self.searching or any(other.searching for other in self._others())

    def _place(self, now_s: float) -> list[Command]:
        if now_s < self._next_attempt_s or not self._has_settled(now_s):
            return []
        return self._mend(now_s)

    def _mended(self, now_s: float) -> Plan | None:
        now = self.circumstances(now_s)
        return self._told(self.job.planning.mend(self.job, now), now)

    def _first_plan(self, now_s: float) -> Plan | None:
        """Chooses the dtype, once: in another every stage would be another, and streams would not go on alike."""
        chosen = [placement.model for other in self._others() for placement in other.live()][:1]
        for model in chosen or self.job.model.suited_to(self.pool(now_s).nodes):
            self.job = replace(self.job, model=model)
            plan = self._mended(now_s)
            if plan is not None:
                return plan
        return None

    def _has_settled(self, now_s: float) -> bool:
        if self._settling.is_over:
            return True
        absent = [pinned.pin.node for pinned in self.pinned(now_s) if not pinned.is_here]
        here = {node.id for node in self._members.pool(now_s).nodes}
        waits, why = self._settling.waits_for(here, absent, self.keep, now_s)
        self.trouble = why or self.trouble
        may_be_alone = waits and not why and self.keep is None and bool(here)
        return not waits or (may_be_alone and self._own_machine_suffices(now_s))

    def _own_machine_suffices(self, now_s: float) -> bool:
        now = self.circumstances(now_s)
        own = tuple(node for node in now.pool.nodes if node.id == self.job.options.own_machine)
        if not own:
            return False
        alone = replace(now, pool=replace(now.pool, nodes=own))
        return self.job.planning.mend(self.job, alone).plan is not None

    def _move_away(self, now_s: float) -> list[Command]:
        """Somebody who serves wants to leave: prepare a pipeline without them while they go on."""
        assert self.serving is not None
        if now_s < self._next_attempt_s:
            return []
        serving, leaving = self.serving, [self._members.members[node].wants_to_leave for node in self.serving.nodes]
        if commands := self._mend(now_s):
            return commands
        others_serve = any(other.serving is not None for other in self._others())
        if others_serve or (any(leaving) and not self._running(serving)):
            return self.end(serving, now_s)  # its streams go on elsewhere, or it has none
        return []

    def _mend(self, now_s: float) -> list[Command]:
        first = not self._settling.is_over or (self.is_extra and self.keep is None)
        plan = self._first_plan(now_s) if first else self._mended(now_s)
        if plan is None:
            self._next_attempt_s = now_s + self.job.options.retry_s
            return []
        self._settling.is_over = True
        self.pool_changed = True  # a repair is quick, not always good: look again later
        return self._start(plan, now_s)

    def _rebalance(self, now_s: float) -> list[Command]:
        self._pauses.looked(now_s)
        # Whoever rests now may be useful at the next look.
        self.pool_changed = any(self._members.is_resting(member.id, now_s) for member in self._members)
        if self.job.search is None:
            return self._improve((), now_s)
        self.searching = True
        pool = self.pool(now_s)
        return [Search(self.id, pool, self.job.planning.search_options(self.job, pool))]

    def found(self, plan: Plan | None, now_s: float) -> list[Command]:
        """A search that was asked for has ended."""
        self.searching = False
        if self.serving is None or self.pending is not None:
            return []  # more urgent things have happened
        return self._improve(() if plan is None else (plan,), now_s)

    def _improve(self, proposals: Sequence[Plan], now_s: float) -> list[Command]:
        now = self.circumstances(now_s)
        plan = self._told(self.job.planning.improve(self.job, now, proposals), now)
        if plan is None:
            return []
        self._pauses.changed(now_s)
        return self._start(plan, now_s)

    def _told(self, outcome: Outcome, now: Circumstances) -> Plan | None:
        """The plan that was chosen; why there is none, or not the one that was wanted, is kept for people."""
        self.pin_trouble = outcome.pin_trouble
        if outcome.trouble:
            # Where nobody is left to try, what the last one failed at says more than "nobody is here".
            self.trouble = self.failure if self.failure and not now.pool.nodes else outcome.trouble
        return outcome.plan

    def pinned(self, now_s: float) -> tuple[Pinned, ...]:
        """The operator's pins, as far as they can be kept now."""
        return self.job.planning.pinned(self.job, self.pool(now_s))

    def forecasting(self, now_s: float) -> PlanOptions:
        """By what everything is forecast on the pool as it is."""
        return self.job.planning.forecasting(self.job, self.pool(now_s))

    def pool(self, now_s: float) -> Pool:
        """That a plan may use."""
        return self._limited(now_s)[0]

    def _limited(self, now_s: float) -> tuple[Pool, bool]:
        """The same, and whether a plan may use all that is here."""
        others = self._others()
        # What is pinned to other pipelines stays theirs, as long as anybody is served.
        pins = [pin for other in others for pin in other.job.options.pins] if any(o.live() for o in others) else []
        held = [stage for other in others for one in other.live() for stage in one.pipeline.stages]
        pool = without(pins, self._allocation.pool(self.id, now_s), held)
        return self._entrusted.limited(pool, self.job, self._suffices, now_s, always=self.is_extra)

    def _suffices(self, pool: Pool) -> bool:
        beside = tuple(placement.pipeline for other in self._others() for placement in other.live())
        now = Circumstances(pool, pool, self._members.fetch_bytes_per_s, beside=beside)
        return self.job.planning.mend(self.job, now).plan is not None

    def _running(self, serving: Placement) -> int:
        """Streams, as the machine that schedules them last said."""
        return self._members.members[serving.nodes[0]].active.get(serving.epoch, 0)

    def circumstances(self, now_s: float) -> Circumstances:
        serving, pool = self.serving, self.pool(now_s)
        fetch = self._members.fetch_bytes_per_s
        beside = tuple(placement.pipeline for other in self._others() for placement in other.live())
        if serving is None:
            at_work = self._allocation.at_work(self.id)
            return Circumstances(pool, pool, fetch, held=self.keep, beside=beside, at_work=at_work)
        with_serving = self._allocation.pool(self.id, now_s, also=serving.nodes)
        return Circumstances(pool, with_serving, fetch, serving.pipeline, self._running(serving), beside=beside)

    def _start(self, plan: Plan, now_s: float) -> list[Command]:
        """Make `plan` the pending placement and tell everybody who has room for it beside what serves."""
        (pool, nobody_else), options = self._limited(now_s), self.forecasting(now_s)
        epoch = self._allocation.next_epoch()
        self.pending = placement = Placement.of(self.id, self.job.model, epoch, plan, pool, options)
        placement.nobody_else = nobody_else
        self._pauses.looked(now_s)
        placement.deferred = {n for n in placement.nodes if self._allocation.must_wait(n, placement, now_s)}
        now = [node for node in placement.nodes if node not in placement.deferred]
        saved = Save(Placed(self.id, placement.epoch, placement.pipeline))
        return [saved, *self._assign(placement, now, now_s), *self._advance(now_s)]

    def _advance(self, now_s: float) -> list[Command]:
        """Switch over if the pending placement is far enough."""
        placement = self.pending
        if placement is None:
            return []
        commands: list[Command] = []
        if placement.deferred and (self.serving is None or self._hasty or placement.can_switch):
            commands += self._make_way()
            deferred = [node for node in placement.nodes if node in placement.deferred]
            placement.deferred.clear()
            commands += self._assign(placement, deferred, now_s)
        if placement.is_ready and self.codec_checks.is_due(placement.pipeline):
            commands += self._check_codecs(placement, now_s)
        elif placement.is_ready:
            commands += self._switch(placement, now_s)
        return commands

    def _check_codecs(self, placement: Placement, now_s: float) -> list[Command]:
        """Before it may serve. Asked once."""
        if placement.checked_s is not None:
            return []
        placement.checked_s = now_s
        first = self._members.members[placement.nodes[0]]
        return [Send(first.connection, CheckCodecs(epoch=placement.epoch, tokens=self.job.model.calibration))]

    def _check_patience(self, pending: Placement, now_s: float) -> list[Command]:
        if pending.checked_s is None or now_s - pending.checked_s < CHECK_S:
            return []
        return self.codecs_checked(pending, None, now_s)

    def _make_way(self) -> list[Command]:
        """End the serving placement because its memory is needed for the next."""
        old, self.serving, self._hasty = self.serving, None, False
        if old is None:
            return []
        self.keep = old.pipeline
        return [RouteChanged(self.id, None), *self._release(old, old.loads)]

    def _switch(self, placement: Placement, now_s: float) -> list[Command]:
        if placement.nobody_else:
            self._members.establish(placement.nodes, now_s)
        old, self.serving, self.pending = self.serving, placement, None
        self.keep = placement.pipeline
        self._settling.is_over = True
        self.trouble = self.failure = ""
        first = self._members.members[placement.nodes[0]].address
        route = RouteChanged(
            self.id, Route(placement.epoch, first, placement.pipeline, str(self.id), placement.capacity)
        )
        return [route, *(self._release(old, old.loads) if old is not None else [])]

    def _assign(self, placement: Placement, nodes: Iterable[NodeId], now_s: float) -> list[Command]:
        peers = tuple(self._members.members[node].address for node in placement.nodes)
        commands: list[Command] = []
        for node in nodes:
            placement.loads[node] = Load(started_s=now_s, heard_s=now_s)
            message = placement.assignment(node, peers)
            commands.append(Send(self._members.members[node].connection, message))
        return commands

    def _release(self, placement: Placement, nodes: Iterable[NodeId]) -> list[Command]:
        """Tell those of `nodes` that are still here to let go."""
        here = [self._members.members[node] for node in nodes if node in self._members.members]
        return [Send(member.connection, Release(epoch=placement.epoch)) for member in here]
