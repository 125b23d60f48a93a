"""Whose fault it was, and what that costs: standing, belief in a claim, a rest. Pure.

Everything a node says is a claim. What it cannot make good costs it standing: a false claim of memory is lowered to
what it has held, and repeated failures put it in quarantine.
"""

from muster.broker.events import Command
from muster.broker.members.membership import Member, Membership
from muster.broker.pipelines.every import Pipelines
from muster.broker.pipelines.placement import Placement
from muster.errors import LinkDown, from_code
from muster.spec.pool import NodeId
from muster.wire.messages.placement import LoadFailed, StageLost

SHORT_OF_MEMORY = frozenset({"model_does_not_fit", "out_of_memory", "machine_trouble"})
"""Codes of `LoadFailed` that mean that the claim of memory was false."""
HANG_STEPS = 20
"""A step that takes so many times its forecast does not end any more."""
MAX_REASON = 300
"""Characters of a machine's own words that people get to read."""


class Blame:
    def __init__(self, members: Membership, pipelines: Pipelines, hang_s: float) -> None:
        """A step that computes for longer than `hang_s` hangs, unless its forecast is so long."""
        self._members, self._pipelines, self._hang_s = members, pipelines, hang_s

    # --- what a machine says of itself or its neighbours -------------------------------------------------------------

    def load_failed(self, member: Member, failed: LoadFailed, now_s: float) -> list[Command]:
        placement = self._pipelines.of_epoch(failed.epoch, member.id)
        if placement is None:
            return []
        error = from_code(failed.code, failed.reason)
        if isinstance(error, LinkDown):
            order = placement.nodes
            following = order[(order.index(member.id) + 1) % len(order)]
            return self._link(placement, member.id, following, now_s)
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
            self._members.report_broken(reporter, peer, now_s)
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
        if not hanging and not still:
            return []
        return self._pipelines.end(serving, now_s)

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
