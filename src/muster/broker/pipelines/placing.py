"""From a pool to placements: when to plan, whom to tell, when to switch. Pure; knows nothing of connections' frames.

At most two placements live at once: the one that serves and the one that loads. Each has an epoch of its own, larger
than any before. What is lost is repaired at once; what could merely be better waits for `rebalance_s` and must be
worth its disturbance (`plan.change`), because every switch makes running streams start over on the new pipeline. The
more often that happens, the longer the next look waits (`pauses`).
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from muster.broker.events import Command, Placed, Route, RouteChanged, Save, Search, Send
from muster.broker.members.membership import Membership
from muster.broker.pipelines.pauses import Pauses
from muster.broker.pipelines.placement import Load, Placement, Served
from muster.cost.measured import constants_of
from muster.errors import PoolUnavailable
from muster.plan.quick.planner import Planner
from muster.plan.quick.tables import PlanOptions
from muster.plan.replan.change import Change, Situation, tokens_per_s, worth
from muster.plan.replan.choose import improved, mended
from muster.plan.replan.pinned import Pinned, around, honours, pinned
from muster.plan.serve.options import Pin
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Pipeline, Plan
from muster.spec.pool import NodeId, Pool
from muster.wire.messages.placement import Release

Chooser = Callable[[Planner, ModelShape, Pool, Situation, PlanOptions, float], Change]
"""Planner, model, pool, situation, options and seconds until the horizon -> the change it would make."""


@dataclass(frozen=True, slots=True)
class PlacingOptions:
    min_nodes: int = 1
    """The first placement waits for this many machines."""
    settle_s: float = 1.0
    """Before the first placement, wait until nobody has joined for this long: machines tend to come in a group."""
    longest_settle_s: float = 5.0
    """But not longer than this after somebody could be used."""
    own_machine: NodeId | None = None
    """The head's own, if it computes: where that holds the whole model alone, the first placement waits for nobody."""
    retry_s: float = 1.0
    """Between attempts to place on a pool that did not suffice."""
    rebalance_s: float = 30.0
    """Between looks for something better while everything runs; longer after each switch."""
    longest_rebalance_s: float = 3600.0
    """But not longer than this."""
    pins: tuple[Pin, ...] = ()
    """Machines, by name or id, that get these layers whenever the pool can serve so."""
    pin_wait_s: float = 60.0
    """The first placement waits this long for pinned machines."""
    horizon_s: float = 600.0
    """A better plan must have paid for its disturbance by then."""
    mend_s: float = 60.0
    """What mends a loss is judged by the tokens until then: streams wait, and better plans may follow."""
    searches: bool = False
    """Whether somebody searches for better plans on request; else the planner's own word is the best there is."""
    planning: PlanOptions = field(default_factory=PlanOptions)
    """How changes are weighed."""
    load_stall_s: float = 60.0
    """A load that gets no further for this long has failed."""
    longest_load_s: float = 7200.0
    """And so has one that takes longer than this, however steadily it trickles."""


class Placing:
    def __init__(
        self, members: Membership, served: Served, planner: Planner, options: PlacingOptions, epoch: int
    ) -> None:
        self.members, self.served, self.planner, self.options = members, served, planner, options
        self.epoch = epoch
        """The largest epoch ever given."""
        self.serving: Placement | None = None
        self.pending: Placement | None = None
        self.keep: Pipeline | None = None
        """The last pipeline; its machines have the weights of their layers."""
        self.trouble = "No machine has joined yet; start one with `muster join` and the ticket."
        """Why nothing serves, in one sentence."""
        self.failure = ""
        """What the last node that could not load its layers said."""
        self.pin_trouble = ""
        """Why not even the pins whose machines are here can be kept."""
        self.pool_changed = False
        self._useful_since_s: float | None = None
        self._joined_s = 0.0
        self._next_attempt_s = 0.0
        self._searching = False
        self._pauses = Pauses(options.rebalance_s, options.longest_rebalance_s)
        self._settling = True
        self._hasty = False
        """Whether the next placement need not wait until the newcomers say that they have their weights."""

    def live(self) -> list[Placement]:
        return [placement for placement in (self.serving, self.pending) if placement is not None]

    def held_bytes(self, node: NodeId) -> int:
        """Memory of all stages that the node was told to hold."""
        return sum(placement.bytes_on(node, self.served) for placement in self.live() if placement.holds(node))

    def loaded_bytes(self, node: NodeId) -> int:
        """Memory of all stages that the node says it holds."""
        loaded = [p for p in self.live() if p.holds(node) and p.loads[node].loaded]
        return sum(placement.bytes_on(node, self.served) for placement in loaded)

    def of_epoch(self, epoch: int, node: NodeId) -> Placement | None:
        """The live placement of this epoch if the node holds a stage of it."""
        return next((p for p in self.live() if p.epoch == epoch and p.holds(node)), None)

    # --- what happened ------------------------------------------------------------------------------------------------

    def usable(self, now_s: float) -> None:
        """The pool gained something: a machine, memory, or good standing."""
        self.pool_changed = True
        self._joined_s = now_s
        if self._useful_since_s is None:
            self._useful_since_s = now_s

    def progressed(self, placement: Placement, node: NodeId, done: int, total: int, now_s: float) -> list[Command]:
        load = placement.loads[node]
        if done > load.done_bytes:
            load.heard_s = now_s
        load.done_bytes, load.total_bytes = done, total
        load.has_weights = done >= total
        return self._advance(now_s)

    def loaded(self, placement: Placement, node: NodeId, now_s: float) -> list[Command]:
        placement.loads[node].loaded = True
        self.members.proved(node, self.loaded_bytes(node), now_s)
        return self._advance(now_s)

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
            commands.append(RouteChanged(None))
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
        options = self.options
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
            return []
        if self.serving is None:
            return self._place(now_s)
        leaving = {node for node in self.serving.nodes if self.members.members[node].draining}
        if leaving:
            return self._move_away(now_s)
        if self.pool_changed and not self._searching and self._pauses.is_over(now_s, self._running(self.serving)):
            return self._rebalance(now_s)
        return []

    def _place(self, now_s: float) -> list[Command]:
        if now_s < self._next_attempt_s or not self._has_settled(now_s):
            return []
        change = self._first_change(now_s) if self._settling else self._weighed(mended, self.options.mend_s, now_s)
        if change is None:
            self._next_attempt_s = now_s + self.options.retry_s
            return []
        self._settling = False
        self.pool_changed = True  # a repair is quick, not always good: look again later
        return self._start(change.plan, now_s)

    def _first_change(self, now_s: float) -> Change | None:
        """Chooses the dtype, once: in another every stage would be another, and streams would not go on alike."""
        for served in self.served.suited_to(self.members.pool(now_s).nodes):
            self.served = served
            change = self._weighed(mended, self.options.mend_s, now_s)
            if change is not None:
                return change
        return None

    def _has_settled(self, now_s: float) -> bool:
        if not self._settling:
            return True
        if self._useful_since_s is None:
            return False
        waited_s = now_s - self._useful_since_s
        absent = [pinned.pin.node for pinned in self.pinned(now_s) if not pinned.is_here]
        if absent and waited_s < self.options.pin_wait_s:
            seconds = self.options.pin_wait_s
            self.trouble = f"Waiting up to {seconds:.0f} s for {', '.join(absent)} because of --pin; start it there."
            return False
        here = {node.id for node in self.members.pool(now_s).nodes}
        if self.keep is not None:  # the head was restarted, and its machines come back one after the other
            return here.issuperset(self.keep.nodes()) or waited_s >= self.options.longest_settle_s
        if len(here) < self.options.min_nodes:
            wanted = self.options.min_nodes
            self.trouble = f"{len(here)} of {wanted} machines are here; join more, or serve with a lower --min-nodes."
            return False
        if now_s - self._joined_s >= self.options.settle_s or waited_s >= self.options.longest_settle_s:
            return True
        return self._own_machine_suffices(now_s)

    def _own_machine_suffices(self, now_s: float) -> bool:
        pool = self.members.pool(now_s)
        own = replace(pool, nodes=tuple(node for node in pool.nodes if node.id == self.options.own_machine))
        if not own.nodes:
            return False
        try:
            self.planner(self.served.shape, own, None, self._planning(now_s))
        except PoolUnavailable:
            return False
        return True

    def _move_away(self, now_s: float) -> list[Command]:
        """Somebody who serves wants to leave: prepare a pipeline without them while they go on."""
        assert self.serving is not None
        if now_s < self._next_attempt_s:
            return []
        change = self._weighed(mended, self.options.mend_s, now_s)
        if change is None:
            self._next_attempt_s = now_s + self.options.retry_s
            return []
        self.pool_changed = True
        return self._start(change.plan, now_s)

    def _rebalance(self, now_s: float) -> list[Command]:
        self._pauses.looked(now_s)
        # Whoever rests now may be useful at the next look.
        self.pool_changed = any(self.members.is_resting(member.id, now_s) for member in self.members)
        if not self.options.searches:
            return self._improve((), now_s)
        self._searching = True
        return [Search(self.members.pool(now_s), self._planning(now_s))]

    def found(self, plan: Plan | None, now_s: float) -> list[Command]:
        """A search that was asked for has ended."""
        self._searching = False
        if self.serving is None or self.pending is not None:
            return []  # more urgent things have happened
        return self._improve(() if plan is None else (plan,), now_s)

    def _improve(self, proposals: Sequence[Plan], now_s: float) -> list[Command]:
        change = self._weighed(partial(improved, proposals=proposals), self.options.horizon_s, now_s)
        if change is None or not (worth(change, self.options.horizon_s) or self._obeys(change.plan, now_s)):
            return []
        self._pauses.changed(now_s)
        return self._start(change.plan, now_s)

    def _weighed(self, choose: Chooser, horizon_s: float, now_s: float) -> Change | None:
        """The plan that `choose` would go to, and what that costs and brings."""
        pool = self.members.pool(now_s)
        shape, planning = self.served.shape, self._planning(now_s)
        situation = self.situation(planning, now_s)
        self.pin_trouble = ""
        try:
            return choose(around(self.planner), shape, pool, situation, planning, horizon_s)
        except PoolUnavailable as error:
            if planning.fixed:
                self.pin_trouble = str(error)
            # Where nobody is left to try, what the last one failed at says more than "nobody is here".
            self.trouble = self.failure if self.failure and not pool.nodes else str(error)
        try:  # no pin is worth that nobody is served
            free = replace(planning, fixed=())
            return choose(self.planner, shape, pool, situation, free, horizon_s) if planning.fixed else None
        except PoolUnavailable as error:
            self.trouble = str(error)
            return None

    def pinned(self, now_s: float) -> tuple[Pinned, ...]:
        """The operator's pins, as far as they can be kept now."""
        return pinned(self.options.pins, self.served.shape, self.members.pool(now_s), self.forecasting(now_s))

    def forecasting(self, now_s: float) -> PlanOptions:
        """By what everything is forecast on the pool as it is, with the constants that `muster plan` takes for it."""
        constants = constants_of(self.members.pool(now_s))
        return replace(self.options.planning, workspace=self.served.workspace, constants=constants)

    def _planning(self, now_s: float) -> PlanOptions:
        """The same, around the pins that can be kept."""
        fixed = tuple(one.stage for one in self.pinned(now_s) if one.stage is not None)
        return replace(self.forecasting(now_s), fixed=fixed)

    def _obeys(self, plan: Plan, now_s: float) -> bool:
        """Whether pins are kept by this plan and not by what serves: reason enough to change."""
        assert self.serving is not None
        fixed = self._planning(now_s).fixed
        return honours(plan.pipelines[0], fixed) and not honours(self.serving.pipeline, fixed)

    def _running(self, serving: Placement) -> int:
        """Streams, as the machine that schedules them last said."""
        return self.members.members[serving.nodes[0]].active.get(serving.epoch, 0)

    def situation(self, planning: PlanOptions, now_s: float) -> Situation:
        """What serves, and what a change would disturb."""
        serving = self.serving
        if serving is None:
            return Situation(None, holders=self.keep, fetch_bytes_per_s=self.members.fetch_bytes_per_s)
        shape, pipeline = self.served.shape, serving.pipeline
        here = self.members.pool(now_s, also=serving.nodes)
        cached_tokens = min(self._running(serving) * planning.context, pipeline.serve.cache_tokens)
        speed = tokens_per_s(pipeline, shape, here, planning)
        return Situation(pipeline, speed, cached_tokens=cached_tokens, fetch_bytes_per_s=self.members.fetch_bytes_per_s)

    def _start(self, plan: Plan, now_s: float) -> list[Command]:
        """Make `plan` the pending placement and tell everybody who has room for it beside what serves."""
        self.epoch += 1
        pool = self.members.pool(now_s)
        self.pending = placement = Placement.of(self.epoch, plan, self.served, pool, self.forecasting(now_s))
        self._pauses.looked(now_s)
        for node in placement.nodes:
            needed = self.held_bytes(node) + placement.bytes_on(node, self.served)
            if self.held_bytes(node) and needed > self.members.cap(self.members.members[node], now_s):
                placement.deferred.add(node)
        now = [node for node in placement.nodes if node not in placement.deferred]
        saved = Save(Placed(placement.epoch, placement.pipeline))
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
        if placement.is_ready:
            commands += self._switch(placement)
        return commands

    def _make_way(self) -> list[Command]:
        """End the serving placement because its memory is needed for the next."""
        old, self.serving, self._hasty = self.serving, None, False
        if old is None:
            return []
        self.keep = old.pipeline
        return [RouteChanged(None), *self._release(old, old.loads)]

    def _switch(self, placement: Placement) -> list[Command]:
        old, self.serving, self.pending = self.serving, placement, None
        self.keep = placement.pipeline
        self._settling = False
        self.trouble = self.failure = ""
        first = self.members.members[placement.nodes[0]].address
        route = RouteChanged(Route(placement.epoch, first, placement.pipeline))
        return [route, *(self._release(old, old.loads) if old is not None else [])]

    def _assign(self, placement: Placement, nodes: Iterable[NodeId], now_s: float) -> list[Command]:
        peers = tuple(self.members.members[node].address for node in placement.nodes)
        commands: list[Command] = []
        for node in nodes:
            placement.loads[node] = Load(started_s=now_s, heard_s=now_s)
            message = placement.assignment(node, peers, self.served)
            commands.append(Send(self.members.members[node].connection, message))
        return commands

    def _release(self, placement: Placement, nodes: Iterable[NodeId]) -> list[Command]:
        """Tell those of `nodes` that are still here to let go."""
        here = [self.members.members[node] for node in nodes if node in self.members.members]
        return [Send(member.connection, Release(epoch=placement.epoch)) for member in here]
