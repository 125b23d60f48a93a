"""What the pool calls each machine: the name that it asks for, or that with a number where another has it. Pure.

A machine keeps its name while it is away, so that a pin or a ban by name never comes to mean another one. Who is
forgotten gives the name back.
"""

from collections.abc import Mapping
from itertools import count

from muster.spec.pool import NodeId


class Names:
    def __init__(self, remembered: Mapping[NodeId, str], max_length: int) -> None:
        """Of several remembered under one name the first keeps it; the others get one when they come back."""
        self._max_length = max_length
        self._names: dict[NodeId, str] = {}
        self._holders: dict[str, NodeId] = {}
        for node, name in remembered.items():
            if name not in self._holders:
                self._hold(node, name)

    def give(self, node: NodeId, wanted: str) -> str:
        """The name of `node`, which asks to be called `wanted`: as before, if it asked for the same before."""
        before = self._names.get(node)
        if before is not None and self._comes_from(before, wanted):
            return before
        self.forget(node)
        candidates = (self._numbered(wanted, number) for number in count(2))
        name = wanted if wanted not in self._holders else next(one for one in candidates if one not in self._holders)
        self._hold(node, name)
        return name

    def forget(self, node: NodeId) -> None:
        name = self._names.pop(node, None)
        if name is not None:
            del self._holders[name]

    def check(self) -> None:
        """Raise `AssertionError` where two machines have one name."""
        assert {name: node for node, name in self._names.items()} == self._holders
        assert len(self._names) == len(self._holders)

    def _hold(self, node: NodeId, name: str) -> None:
        self._names[node] = name
        self._holders[name] = node

    def _numbered(self, wanted: str, number: int) -> str:
        suffix = f"-{number}"
        return wanted[: self._max_length - len(suffix)] + suffix

    def _comes_from(self, name: str, wanted: str) -> bool:
        number = name.rpartition("-")[2]
        return name == wanted or (number.isdecimal() and name == self._numbered(wanted, int(number)))
