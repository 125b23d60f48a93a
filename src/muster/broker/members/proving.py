"""Who has to show now what it claims, and what follows from what it has shown. Pure.

A newcomer does so before anything is entrusted to it; whoever is on trial again and again while it has nothing to do.
"""

from collections.abc import Callable

from muster.broker.events import Command, Exert, Shown
from muster.broker.members.membership import Member, Membership
from muster.spec.pool import NodeId


class Proving:
    def __init__(self, members: Membership, most_bytes: int) -> None:
        """`most_bytes` are what a plan would put on one machine at most."""
        self._members, self._most_bytes = members, most_bytes

    def due(self, has_work: Callable[[NodeId], bool], now_s: float) -> list[Command]:
        """Called now and then. Nobody who works is disturbed: its neighbours see what it does."""
        waiting = [member for member in self._members if member.claimed is not None and not member.exercising]
        return [
            command
            for member in waiting
            if not member.draining and not self._members.is_own(member.id) and not has_work(member.id)
            for command in self._ask(member, now_s)
        ]

    def _ask(self, member: Member, now_s: float) -> list[Command]:
        standing = self._members.standing(member.id, now_s)
        if member.claimed is None or not standing.is_due(now_s):
            return []
        member.exercising = True
        return [Exert(member.connection, standing.exercise(member.claimed, self._most_bytes))]

    def exercised(self, member: Member, shown: Shown, has_work: Callable[[NodeId], bool], now_s: float) -> bool:
        """Whether something else is believed of the machine now, or more is entrusted to it."""
        member.exercising = False
        if member.claimed is None:
            return False
        if shown.round_trip_s is not None:
            self._members.saw_round_trip(member, shown.round_trip_s)
        if has_work(member.id):
            return False  # it was given layers meanwhile, and has ended the exercise for them
        standing = self._members.standing(member.id, now_s)
        before = (standing.established, standing.held_bytes)
        standing.has_exercised(member.claimed, shown, now_s)
        return self._members.believe(member, now_s) or before != (standing.established, standing.held_bytes)
