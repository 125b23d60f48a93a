"""All faults of a simulation, to be asked about any moment. Knows nothing of what they do to a ring."""

from collections.abc import Iterable
from math import inf

from muster.errors import InvalidRequest
from muster.spec.faults import CutLink, Fault, Slow
from muster.spec.pool import NodeId


class FaultTimeline:
    """All faults of a simulation, to be asked about any moment."""

    def __init__(self, faults: Iterable[Fault[NodeId]]) -> None:
        """Raises `InvalidRequest` on a time or factor that cannot be."""
        self.faults = tuple(sorted(faults, key=lambda fault: fault.at_s))
        for fault in self.faults:
            _check(fault)
        self._slow: dict[NodeId, list[Slow[NodeId]]] = {}
        self._cuts: dict[frozenset[NodeId], list[CutLink[NodeId]]] = {}
        for fault in self.faults:
            if isinstance(fault, Slow):
                self._slow.setdefault(fault.node, []).append(fault)
            elif isinstance(fault, CutLink):
                self._cuts.setdefault(frozenset((fault.source, fault.target)), []).append(fault)

    def speed(self, node: NodeId, now_s: float) -> float:
        """Share of its normal speed at which the machine computes what it starts now."""
        if node not in self._slow:
            return 1.0
        past = [slow.factor for slow in self._slow.get(node, ()) if slow.at_s <= now_s]
        return past[-1] if past else 1.0

    def passable_s(self, source: NodeId, target: NodeId, now_s: float) -> float:
        """The first moment from now on at which the link carries something."""
        if not self._cuts:
            return now_s
        for cut in self._cuts.get(frozenset((source, target)), ()):
            if cut.at_s <= now_s < cut.until_s:
                now_s = cut.until_s
        return now_s


def _check(fault: Fault[NodeId]) -> None:
    if not 0 <= fault.at_s < inf:
        raise InvalidRequest(f"A fault at {fault.at_s} s cannot be simulated; give a time from 0 on.", "faults")
    if isinstance(fault, Slow) and not 0 < fault.factor < inf:
        raise InvalidRequest(
            f"A machine cannot run at {fault.factor} of its speed; give a factor above 0, or let it leave.", "faults"
        )
    if isinstance(fault, CutLink) and fault.until_s <= fault.at_s:
        raise InvalidRequest(
            f"A cut from second {fault.at_s} to {fault.until_s} ends before it starts; swap the two.", "faults"
        )
