"""Links between named places: machines, groups of alike machines, regions. Knows nothing of files.

A machine answers to several names: its id, its own name, the name of its group, its region. The speed from one machine
to another is the one written for the most specific pair of their names.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

from muster.spec.pool import LinkSpeed, NodeId

Names = tuple[str, ...]
"""What one machine answers to, the most specific first and the region last; as many for each machine of a pool."""


@dataclass(frozen=True)
class NamedLinks(Mapping[tuple[NodeId, NodeId], LinkSpeed]):
    """(from, to) -> speed for every two machines without holding them all: a thousand machines are a million pairs."""

    names: Mapping[NodeId, Names]
    table: Mapping[tuple[str, str], LinkSpeed]
    """(from, to) -> speed, by any of the names. A name with itself: between two machines of that name."""
    inside: LinkSpeed | None = None
    """Between two machines of one region for which the table has nothing."""
    _places: dict[NodeId, int] = field(init=False, repr=False, compare=False, default_factory=dict)
    _kinds: list[Names] = field(init=False, repr=False, compare=False, default_factory=list)
    _found: dict[tuple[int, int], LinkSpeed | None] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        said = {name for pair in self.table for name in pair}
        numbers: dict[Names, int] = {}
        for node, names in self.names.items():
            # Machines that the table does not tell apart share a place, so that each pair of places is looked up once.
            place = (*(name if name in said else "" for name in names[:-1]), names[-1])
            self._places[node] = numbers.setdefault(place, len(numbers))
        self._kinds.extend(numbers)

    @property
    def places(self) -> Sequence[Names]:
        """The distinct kinds of place; `place_of` gives indices into it."""
        return self._kinds

    def place_of(self, node: NodeId) -> int:
        return self._places[node]

    def between_places(self, source: int, target: int) -> LinkSpeed | None:
        """From a machine at one place to another machine at the other; None if nothing is written."""
        if (source, target) not in self._found:
            self._found[source, target] = self._look_up(self._kinds[source], self._kinds[target])
        return self._found[source, target]

    def _look_up(self, source: Names, target: Names) -> LinkSpeed | None:
        levels = product(range(len(source)), range(len(target)))
        for i, j in sorted(levels, key=lambda pair: (sum(pair), pair)):
            speed = self.table.get((source[i], target[j]))
            if speed is not None:
                return speed
        return self.inside if source[-1] == target[-1] != "" else None

    def __getitem__(self, pair: tuple[NodeId, NodeId]) -> LinkSpeed:
        source, target = pair
        speed = self.between_places(self._places[source], self._places[target]) if source != target else None
        if speed is None:
            raise KeyError(pair)
        return speed

    def __iter__(self) -> Iterator[tuple[NodeId, NodeId]]:
        for source in self.names:
            for target in self.names:
                if (source, target) in self:
                    yield source, target

    def __len__(self) -> int:
        return sum(1 for _ in self)
