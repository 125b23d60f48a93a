"""The simulated network: one wire a direction, whoever sends, and what may go wrong on it. Knows no pipeline."""

from dataclasses import dataclass, field

from muster.sim.events import Events
from muster.sim.faults import FaultTimeline
from muster.spec.pool import NodeId


@dataclass(slots=True)
class Wire:
    """One direction of a link."""

    free_s: float = 0.0
    """When it is done with all messages so far."""
    sent_bytes: float = 0.0


@dataclass(slots=True)
class Network:
    """What all pipelines share: the clock, the faults, and every wire between two machines."""

    events: Events
    faults: FaultTimeline
    shows: bool = False
    """Whether anybody wants spans."""
    wires: dict[tuple[NodeId, NodeId], Wire] = field(default_factory=dict)
    tokens: list[tuple[float, int]] = field(default_factory=list)
    """(when, how many came)."""
