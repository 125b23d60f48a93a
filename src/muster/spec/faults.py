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


Fault = Leave[MachineT] | Join[MachineT] | Slow[MachineT] | CutLink[MachineT]
