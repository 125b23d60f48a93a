"""Where the steps of a ring get stuck, judged by what its machines see of each other. Pure.

Every stage counts the steps that it got and the steps that it passed on. A step has crossed a link when both ends say
so; what a stage says of its own work alone counts for nothing. Steps that were begun and get no further for too long
stick at the first stage that passed on less than it got. Where the two ends of that link disagree, it is the sender,
unless the receiver has contradicted more machines than the sender has. Two neighbours that lie together are not seen
through here, and neither is a machine that serves alone.
"""

from collections.abc import Collection
from dataclasses import dataclass

from muster.broker.members.membership import Membership
from muster.broker.pipelines.placement import Placement
from muster.spec.pool import NodeId

DISPUTE_S = 600.0
"""So long it is remembered who contradicted whom."""


@dataclass(slots=True)
class _Seen:
    crossed: tuple[int, ...]
    """Steps that have crossed each link, as both ends say, never more than crossed the link before."""
    moved_s: float
    """When that last changed."""
    begun_s: float | None = None
    """Since when steps are on their way and none of them moves."""


class Flow:
    def __init__(self, members: Membership) -> None:
        self._members = members
        self._seen: dict[int, _Seen] = {}
        self._disputes: dict[frozenset[NodeId], float] = {}

    def look(self, serving: Collection[Placement], now_s: float) -> None:
        """Take in what the last heartbeats said; called now and then."""
        before, self._seen = self._seen, {}
        for placement in serving:
            counts = self._counts(placement)
            crossed = _crossed(counts)
            seen = before.get(placement.epoch)
            if seen is None or seen.crossed != crossed:
                seen = _Seen(crossed, now_s)
            if counts[0][1] == crossed[-1]:
                seen.begun_s = None
            elif seen.begun_s is None:
                seen.begun_s = now_s
            self._seen[placement.epoch] = seen

    def passed(self, placement: Placement) -> dict[NodeId, int]:
        """Steps that came to each machine and left it, as its neighbours on both sides say; none where it has none."""
        seen = self._seen.get(placement.epoch)
        crossed = seen.crossed if seen is not None else (0,) * len(placement.ring)
        return {node: min(crossed[index - 1], crossed[index]) for index, node in enumerate(placement.ring)}

    def stuck_s(self, placement: Placement, now_s: float) -> float:
        """How long steps have been on their way without moving; 0 where none is."""
        seen = self._seen.get(placement.epoch)
        return 0.0 if seen is None or seen.begun_s is None else now_s - seen.begun_s

    def still_s(self, placement: Placement, now_s: float) -> float:
        """How long nothing has moved, whether or not anything was begun."""
        seen = self._seen.get(placement.epoch)
        return 0.0 if seen is None else now_s - seen.moved_s

    def culprit(self, placement: Placement, now_s: float) -> NodeId:
        """Where the steps stick; the first stage, which has to begin them, where none is on its way."""
        counts, nodes = self._counts(placement), placement.ring
        entered = counts[0][1]
        for index, crossed in enumerate(_crossed(counts)):
            if crossed < entered:
                sender, receiver = nodes[index], nodes[(index + 1) % len(nodes)]
                contradicted = counts[index][1] > counts[(index + 1) % len(nodes)][0]
                return self._disputed(sender, receiver, now_s) if contradicted else sender
            entered = crossed
        return nodes[0]

    def _disputed(self, sender: NodeId, receiver: NodeId, now_s: float) -> NodeId:
        self._disputes = {pair: at_s for pair, at_s in self._disputes.items() if now_s - at_s < DISPUTE_S}
        self._disputes[frozenset((sender, receiver))] = now_s
        by_sender, by_receiver = (sum(node in pair for pair in self._disputes) for node in (sender, receiver))
        return receiver if by_receiver > by_sender else sender

    def _counts(self, placement: Placement) -> list[tuple[int, int]]:
        """(received, sent) of each stage."""
        return [self._members.members[node].passed.get(placement.epoch, (0, 0)) for node in placement.ring]


def _crossed(counts: list[tuple[int, int]]) -> tuple[int, ...]:
    """Of the links behind each stage; the last leads back to the first."""
    crossed, least = [], counts[0][1]
    for (_, sent), (received, _) in zip(counts, [*counts[1:], counts[0]], strict=True):
        least = min(least, sent, received)
        crossed.append(least)
    return tuple(crossed)
