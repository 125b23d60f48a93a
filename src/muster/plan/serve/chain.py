"""One pipeline through machines in a given order: cuts and tensor-parallel degrees, exactly, for many settings at once.

The state is (devices of this machine used, layers done). With C[a, b] the seconds of a stage of d devices:

    V[e + d][b] = min over a of max(V[e][a], C[a, b])     the least slowest stage, or
    V[e + d][b] = min over a of V[e][a] + C[a, b]         the least time around, no stage slower than a cap

(HexGen, arXiv 2311.11514, section 4 describes such a recursion; its repository tries all splits instead.) Every machine
of the order gets at least one stage; devices may stay idle. A row is one setting: a batch and the cache that a stage
must have room for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from muster.plan.serve.stage_tables import StageTables

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
NO_PINS: Mapping[int, tuple[int, int]] = MappingProxyType({})


class Item(NamedTuple):
    """So many devices of some machine of a class."""

    of_class: int
    devices: int


Group = tuple[Item, ...]
"""What one replica has, in sorted order."""


class Cut(NamedTuple):
    """A stage: which item of the order, how many of its devices, layers [first, last)."""

    item: int
    degree: int
    first: int
    last: int


@dataclass(frozen=True)
class Rows:
    """One entry per setting."""

    batch: Ints
    """Index into `StageTables.batches`."""
    room: Floats
    """Tokens of cache that every stage must have room for."""
    tokens: Floats
    """That one step sends from stage to stage, on the mean."""

    def only(self, row: int) -> "Rows":
        pick = slice(row, row + 1)
        return Rows(self.batch[pick], self.room[pick], self.tokens[pick])


class Chain:
    """Costs of stages and hops for `rows`; `token_bytes` is what one token's hidden state takes on a link.

    `pins`: classes (of one machine each) that must take exactly layers [first, last).
    """

    def __init__(
        self, tables: StageTables, rows: Rows, token_bytes: float, pins: Mapping[int, tuple[int, int]] = NO_PINS
    ) -> None:
        self.tables, self.rows, self.token_bytes, self.pins = tables, rows, token_bytes, pins
        self._costs: dict[tuple[int, int], Floats] = {}

    def cost(self, kind: int, degree: int) -> Floats:
        """[row, a, b]: seconds; infinite where the layers or the cache do not fit."""
        key = (kind, degree)
        if key not in self._costs:
            fits = self.tables.room(kind, degree)[self.rows.batch] >= self.rows.room[:, None, None]
            self._costs[key] = np.where(fits, self.tables.seconds(kind, degree)[self.rows.batch], np.inf)
        return self._costs[key]

    def wire_s(self, source: Item, target: Item) -> Floats:
        """[row]: for how long a step keeps the link busy."""
        bandwidth = float(self.tables.fleet.bandwidth[source.of_class, target.of_class])
        seconds = self.rows.tokens * self.token_bytes
        return seconds / bandwidth if bandwidth > 0 else np.full(len(seconds), np.inf)

    def inside_s(self, item: Item) -> Floats:
        """[row]: from one stage to the next in one machine."""
        inside = self.tables.fleet.inside(item.of_class)
        return (
            inside.latency_s
            + self.tables.constants.message_s
            + self.rows.tokens * self.token_bytes / inside.bandwidth_bytes_per_s
        )

    def slowest(self, order: Sequence[Item]) -> Floats:
        """[row]: the least slowest stage or wire; infinite if the order cannot hold the model."""
        value = self._start()
        for before, item in zip((None, *order), order, strict=False):
            if before is not None:
                value = np.maximum(value, self.wire_s(before, item)[:, None])
            value = self._machine(item, value)
        return np.asarray(value[:, -1])

    def around(self, order: Sequence[Item], cap_s: Floats) -> Floats:
        """[row]: the least time from the first stage to the last with no stage slower than `cap_s`."""
        value = self._start()
        for before, item in zip((None, *order), order, strict=False):
            if before is not None:
                value = value + (self.wire_s(before, item) + self._latency(before, item))[:, None]
            value = self._machine(item, value, cap_s)
        return np.asarray(value[:, -1])

    def cuts(self, order: Sequence[Item], cap_s: float) -> tuple[Cut, ...]:
        """The stages that `around` found, for a chain with one row."""
        cap = np.array([cap_s])
        states = [self._states(order[0], self._start(), cap)]
        for before, item in pairwise(order):
            hop_s = self.wire_s(before, item) + self._latency(before, item)
            states.append(self._states(item, self._leave(before, states[-1]) + hop_s[:, None], cap))
        return self._trace(order, states, cap)

    def _latency(self, source: Item, target: Item) -> float:
        latency_s = float(self.tables.fleet.latency_s[source.of_class, target.of_class])
        return latency_s + self.tables.constants.message_s

    def _start(self) -> Floats:
        value = np.full((len(self.rows.batch), self.tables.layers + 1), np.inf)
        value[:, 0] = 0.0
        return value

    def _machine(self, item: Item, value: Floats, cap_s: Floats | None = None) -> Floats:
        return self._leave(item, self._states(item, value, cap_s))

    def _leave(self, item: Item, states: Floats) -> Floats:
        """[row, layers done] after a machine, however many of its devices work; a pin says where it ends."""
        value = np.min(states[1:], axis=0)
        if item.of_class in self.pins:
            elsewhere = np.arange(self.tables.layers + 1) != self.pins[item.of_class][1]
            value[:, elsewhere] = np.inf
        return np.asarray(value)

    def _states(self, item: Item, value: Floats, cap_s: Floats | None) -> Floats:
        """[devices used, row, layers done]; by sum if there is a cap, else by the slowest."""
        kind = self.tables.fleet.kind_of[item.of_class]
        states = np.full((item.devices + 1, *value.shape), np.inf)
        states[0] = value
        if item.of_class in self.pins:
            states[0, :, np.arange(self.tables.layers + 1) != self.pins[item.of_class][0]] = np.inf
        inside_s = self.inside_s(item)[:, None] if cap_s is not None else 0.0
        for degree in self.tables.degrees(item.devices):
            self.cost(kind, degree)
        for used in range(item.devices):
            before = states[used] + (inside_s if used else 0.0)
            if not np.isfinite(before).any():
                continue
            for degree in self.tables.degrees(item.devices - used):
                after = self._extend(before, self.cost(kind, degree), cap_s)
                np.minimum(states[used + degree], after, out=states[used + degree])
        return states

    def _extend(self, before: Floats, cost: Floats, cap_s: Floats | None) -> Floats:
        if cap_s is None:
            return np.asarray(np.maximum(before[:, :, None], cost).min(axis=1))
        capped = np.where(cost <= cap_s[:, None, None] * (1 + 1e-9), cost, np.inf)
        return np.asarray((before[:, :, None] + capped).min(axis=1))

    def _trace(self, order: Sequence[Item], states: list[Floats], cap_s: Floats) -> tuple[Cut, ...]:
        """Backwards: which last stage gives each value."""
        cuts: list[Cut] = []
        last = self.tables.layers
        for index in range(len(order) - 1, -1, -1):
            used = 1 + int(np.argmin(states[index][1:, 0, last]))
            while used:
                cut = self._last_cut(order[index], index, states[index], used, last, cap_s)
                cuts.append(cut)
                used, last = used - cut.degree, cut.first
        return tuple(reversed(cuts))

    def _last_cut(self, item: Item, index: int, states: Floats, used: int, last: int, cap_s: Floats) -> Cut:
        kind = self.tables.fleet.kind_of[item.of_class]
        inside_s = float(self.inside_s(item)[0])
        best: tuple[float, Cut] | None = None
        for degree in self.tables.degrees(used):
            before = states[used - degree, 0, :] + (inside_s if used > degree else 0.0)
            cost = self.cost(kind, degree)[0, :, last]
            total = before + np.where(cost <= cap_s[0] * (1 + 1e-9), cost, np.inf)
            first = int(np.argmin(total))
            if best is None or total[first] < best[0]:
                best = (float(total[first]), Cut(index, degree, first, last))
        assert best is not None, "one device is always a degree"
        return best[1]
