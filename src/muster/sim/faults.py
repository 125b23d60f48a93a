"""What goes wrong during a simulation, and when. Knows nothing of what it does to a ring.

`node`, `source` and `target` are ids as in the plan.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf

from muster.errors import InvalidRequest
from muster.spec.pool import NodeId


@dataclass(frozen=True, slots=True)
class Leave:
    """The machine is gone, with the steps it was at and the cache it held."""

    node: NodeId
    at_s: float


@dataclass(frozen=True, slots=True)
class Join:
    """The machine is there (again): as a standby, or in the place that it left."""

    node: NodeId
    at_s: float


@dataclass(frozen=True, slots=True)
class Slow:
    """From now on the machine computes at `factor` of the speed that the pool file gives; 1 ends it."""

    node: NodeId
    at_s: float
    factor: float


@dataclass(frozen=True, slots=True)
class CutLink:
    """Nothing passes between the two, in either direction, until `until_s`."""

    source: NodeId
    target: NodeId
    at_s: float
    until_s: float = inf


Fault = Leave | Join | Slow | CutLink


class FaultTimeline:
    """All faults of a simulation, to be asked about any moment."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        """Raises `InvalidRequest` on a time or factor that cannot be."""
        self.faults = tuple(sorted(faults, key=lambda fault: fault.at_s))
        for fault in self.faults:
            _check(fault)
        self._slow: dict[NodeId, list[Slow]] = {}
        self._cuts: dict[frozenset[NodeId], list[CutLink]] = {}
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


def _check(fault: Fault) -> None:
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
