"""Whose fault it was, and what that costs: standing, belief in a claim, a rest. Pure.

Everything a node says is a claim. What it cannot make good costs it standing: a false claim of memory is lowered to
what it has held, and repeated failures put it in quarantine.
"""

from itertools import pairwise

from muster.broker.events import Command
from muster.broker.members.membership import Member, Membership
from muster.broker.pipelines.every import Pipelines
from muster.broker.pipelines.flow import Flow
from muster.broker.pipelines.placement import Placement
from muster.errors import LinkDown, from_code
from muster.spec.plan import ServeSettings
from muster.spec.pool import NodeId
from muster.wire.messages.placement import LoadFailed, StageLost

SHORT_OF_MEMORY = frozenset({"model_does_not_fit", "out_of_memory", "machine_trouble"})
"""Codes of `LoadFailed` that mean that the claim of memory was false."""
HANG_STEPS = 20
"""A step that takes so many times its forecast does not end any more."""
HANG_TRANSFERS = 4
"""The same for the time that the largest step takes on a link."""
SUSPICION_S = 60.0
"""A suspicion that is not repeated within this time has come to nothing."""
BYTES_PER_VALUE = 4
"""Of a hidden state, at most."""
MAX_REASON = 300
"""Characters of a machine's own words that people get to read."""


class Blame:
    def __init__(self, members: Membership, pipelines: Pipelines, hang_s: float, stuck_s: float) -> None:
        """A step that computes for longer than `hang_s` hangs, and one that moves no further for `stuck_s` is stuck,
        unless its forecast is so long."""
        self._members, self._pipelines, self._hang_s, self._stuck_s = members, pipelines, hang_s, stuck_s
        self._flow = Flow(members)
        self._suspicions: dict[int, tuple[float, float]] = {}
        """When an epoch was suspected, first and last."""

    # --- what a machine says of itself or its neighbours -------------------------------------------------------------

    def load_failed(self, member: Member, failed: LoadFailed, now_s: float) -> list[Command]:
        placement = self._pipelines.of_epoch(failed.epoch, member.id)
        if placement is None:
            return []
        error = from_code(failed.code, failed.reason)
        if isinstance(error, LinkDown):
            return self._link(placement, member.id, placement.following(member.id), now_s)
        if failed.code in SHORT_OF_MEMORY:
            self._believe_less(member.id, now_s)
        else:
            self._members.failed(member.id, now_s)
        reason = failed.reason[:MAX_REASON]
        self._pipelines[placement.id].failed(f"Node {member.name} could not load its layers: {reason}")
        return [*self._pipelines.end(placement, now_s), *self.overbooked(member, now_s)]

    def stage_lost(self, member: Member, lost: StageLost, now_s: float) -> list[Command]:
        placement = self._pipelines.of_epoch(lost.epoch, member.id)
        if placement is None:
            return []
        if lost.peer == member.id:
            self._members.failed(member.id, now_s)
            return self._pipelines.end(placement, now_s)
        if lost.peer not in placement.neighbours(member.id):
            return []
        return self._link(placement, member.id, lost.peer, now_s)

    def forgotten(self, member: Member, now_s: float) -> list[Command]:
        """Every stage that the member serves and does not name any more.

        It said `Loaded` before on the same channel, so it has lost its stage since.
        """
        serving = [p for p in self._pipelines.serving() if p.holds(member.id) and p.epoch not in member.active]
        if serving:
            self._members.failed(member.id, now_s)
        return [command for p in serving for command in self._pipelines[p.id].lost([member.id], now_s)]

    def overbooked(self, member: Member, now_s: float) -> list[Command]:
        """What the member is to hold beyond what it is believed to have."""
        if self._pipelines.allocation.booked_bytes(member.id) <= self._members.cap(member, now_s):
            return []
        return self._pipelines.lost([member.id], now_s)

    def _link(self, placement: Placement, reporter: NodeId, peer: NodeId, now_s: float) -> list[Command]:
        """Either `peer` is dead, and its lease will tell, or the link is. Go on without it until that is clear."""
        if placement.deferred:
            return self._pipelines[placement.id].give_up_waiting(placement, now_s)
        options = self._members.options
        if reporter != peer:
            stage = placement.stage(reporter)
            self._members.report_broken(reporter, peer, now_s, stage is not None and peer in stage.members)
            self._members.rest(peer, options.lease_s, now_s)
            if self._members.complains_about(reporter, now_s) >= options.strikes:
                self._members.rest(reporter, options.quarantine_s, now_s)
        return self._pipelines.end(placement, now_s)

    # --- what others see ----------------------------------------------------------------------------------------------

    def suspected(self, epoch: int, unreachable: bool, now_s: float) -> list[Command]:
        """A client waits in vain. Some machine hangs, or a step was lost, or it is all just slow: then let it work."""
        serving = next((placement for placement in self._pipelines.serving() if placement.epoch == epoch), None)
        if serving is None:
            return []
        if unreachable:
            return self._pipelines.end(serving, now_s)
        patience_s = max(self._hang_s, HANG_STEPS * serving.longest_step_seconds)
        members = [self._members.members[node] for node in serving.nodes]
        still = all(now_s - member.stepped_s >= patience_s for member in members)
        # Where nobody has finished a step for so long, the heartbeats of who hangs may lag behind: half of it will do.
        hanging = [member for member in members if member.computing_s >= (patience_s / 2 if still else patience_s)]
        for member in hanging:
            self._members.hangs(member, now_s)
        if not hanging and self._waits_in_vain(serving, patience_s, now_s):
            return self._accuse_stuck(serving, now_s)
        if not hanging and not still:
            return []
        return self._pipelines.end(serving, now_s)

    def _waits_in_vain(self, serving: Placement, patience_s: float, now_s: float) -> bool:
        """Whether a client has waited so long in which no step has got any further, whatever the machines say."""
        first_s, last_s = self._suspicions.get(serving.epoch, (now_s, now_s))
        if now_s - last_s > SUSPICION_S:
            first_s = now_s
        self._suspicions = {serving.epoch: (first_s, now_s)}
        waited_s = min(now_s - first_s, self._flow.still_s(serving, now_s))
        return len(serving.ring) > 1 and waited_s >= patience_s

    def stuck(self, now_s: float) -> list[Command]:
        """Steps that are on their way in a ring and reach the next machine no more."""
        self._flow.look([serving for serving in self._pipelines.serving() if len(serving.ring) > 1], now_s)
        commands: list[Command] = []
        for serving in self._pipelines.serving():
            if self._flow.stuck_s(serving, now_s) >= self._stuck_patience_s(serving, now_s):
                commands += self._accuse_stuck(serving, now_s)
        return commands

    def credit(self, now_s: float) -> None:
        """To whoever is on trial, the steps that its neighbours saw it pass on, as fast as the plan says."""
        for serving in self._pipelines.serving():
            for node, steps in self._flow.passed(serving).items():
                standing = self._members.standing(node, now_s)
                if standing.established:
                    continue
                if self._members.members[node].slowness > 1.0:
                    standing.set_back()
                elif standing.passed(serving.epoch, steps, now_s):
                    self._pipelines.look_again()

    def _accuse_stuck(self, serving: Placement, now_s: float) -> list[Command]:
        return self.accused(self._flow.culprit(serving, now_s), "steps came to it and did not leave it", now_s)

    def _stuck_patience_s(self, serving: Placement, now_s: float) -> float:
        """An honest machine may compute for long, and a link may be slow."""
        computing_s = max(self._members.members[node].computing_s for node in serving.nodes)
        least_s = max(self._stuck_s, self._hang_s if computing_s >= self._stuck_s / 2 else 0.0)
        transfer_s = HANG_TRANSFERS * self._longest_transfer_s(serving, now_s)
        return max(least_s, HANG_STEPS * serving.longest_step_seconds, transfer_s)

    def _longest_transfer_s(self, serving: Placement, now_s: float) -> float:
        """Of the largest hidden state, on the slowest link, as far as the links are known."""
        work, nodes = serving.pipeline.work, serving.ring
        if not isinstance(work, ServeSettings):
            return 0.0
        tokens = (work.prefill_tokens or serving.model.workspace.prefill_tokens) + work.batch
        step_bytes = tokens * serving.model.shape.hidden_size * BYTES_PER_VALUE
        links = self._members.links([self._members.members[node] for node in nodes], now_s)
        between = [links[pair] for pair in pairwise(nodes)]
        known = [link for link in between if link.bandwidth_bytes_per_s > 0]
        return max((link.latency_s + step_bytes / link.bandwidth_bytes_per_s for link in known), default=0.0)

    def accused(self, node: NodeId, reason: str, now_s: float) -> list[Command]:
        """Others take over while it rests; the more often this happens, the longer."""
        member = self._members.members.get(node)
        if member is None:
            return []
        self._members.failed(node, now_s)
        for lifecycle in self._pipelines:
            lifecycle.left_out(f"Node {member.name} was left out: {reason[:MAX_REASON]}")
        return self._pipelines.lost([node], now_s)

    def stalled(self, now_s: float) -> list[Command]:
        """Loads that get no further."""
        commands: list[Command] = []
        for placement, node in self._pipelines.stalled(now_s):
            self._members.failed(node, now_s)
            commands += self._pipelines.end(placement, now_s)
        return commands

    def vanished(self, member: Member, now_s: float) -> None:
        """To vanish in the middle of a load looks like a false claim."""
        pending = [placement for placement in self._pipelines.pending() if placement.holds(member.id)]
        if any(not placement.loads[member.id].loaded for placement in pending):
            self._believe_less(member.id, now_s)

    def _believe_less(self, node: NodeId, now_s: float) -> None:
        books = self._pipelines.allocation
        self._members.lied(node, books.held_bytes(node), books.loaded_bytes(node), now_s)
