"""What can go wrong in a pool, and when: the words of the simulator, of rehearsals and of tests alike.

Machines are named as whoever brings the fault about names them: by id in a simulation, by number in a rehearsal. Knows
nothing of what a fault does.
"""

from dataclasses import dataclass
from math import inf
from typing import Generic, TypeVar

MachineT = TypeVar("MachineT", covariant=True)


@dataclass(frozen=True, slots=True)
class Leave(Generic[MachineT]):
    """The machine vanishes without a goodbye, with the steps it was at and the cache it held."""

    node: MachineT
    at_s: float


@dataclass(frozen=True, slots=True)
class Join(Generic[MachineT]):
    """The machine is there (again): as a standby, or in the place that it left."""

    node: MachineT
    at_s: float


@dataclass(frozen=True, slots=True)
class Slow(Generic[MachineT]):
    """From now on the machine computes at `factor` of its speed; 1 ends it."""

    node: MachineT
    at_s: float
    factor: float


@dataclass(frozen=True, slots=True)
class CutLink(Generic[MachineT]):
    """Nothing passes between the two, in either direction, until `until_s`."""

    source: MachineT
    target: MachineT
    at_s: float
    until_s: float = inf


@dataclass(frozen=True, slots=True)
class SlowLink(Generic[MachineT]):
    """From now on `factor` of the bandwidth passes between the two, in both directions; 1 ends it."""

    source: MachineT
    target: MachineT
    at_s: float
    factor: float


@dataclass(frozen=True, slots=True)
class Freeze(Generic[MachineT]):
    """Everything on the machine stands still, with all its memory and open connections, until `until_s`."""

    node: MachineT
    at_s: float
    until_s: float = inf


@dataclass(frozen=True, slots=True)
class Heal(Generic[MachineT]):
    """Whatever slowed or froze the machine ends, or, with `other`, whatever slowed or cut the link between the two."""

    node: MachineT
    at_s: float
    other: MachineT | None = None


Fault = Leave[MachineT] | Join[MachineT] | Slow[MachineT] | CutLink[MachineT]
"""What a simulation knows."""
LabFault = Fault[MachineT] | SlowLink[MachineT] | Freeze[MachineT] | Heal[MachineT]
"""What may also befall real programs on real links."""
