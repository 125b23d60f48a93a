"""One pipeline through machines in a given order: cuts and tensor-parallel degrees, exactly, for many settings at once.

The state is (devices of this machine used, layers done). With C[a, b] the seconds of a stage of d devices:

    V[e + d][b] = min over a of max(V[e][a], C[a, b])     the least slowest stage, or
    V[e + d][b] = min over a of V[e][a] + C[a, b]         the least time around, no stage slower than a cap

(HexGen, arXiv 2311.11514, section 4 describes such a recursion; its repository tries all splits instead.) Every machine
of the order gets at least one stage; devices may stay idle. A row is one setting: a batch and the cache that a stage
must have room for. Costs are kept as bands, because few layers fit on a device:

    band[row, b, i] = C[row, b - width + i, b]      with width the most layers that fit, so a = b - width ... b - 1
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
        self._bands: dict[tuple[int, int], Floats] = {}
        self._masked: dict[tuple[int, int], Floats] = {}
        """Bands without what is slower than the cap in force."""

    def only(self, row: int) -> "Chain":
        """A chain of one row, with what is known of it."""
        chain = Chain(self.tables, self.rows.only(row), self.token_bytes, self.pins)
        chain._bands = {key: band[row : row + 1] for key, band in self._bands.items()}
        return chain

    def band(self, kind: int, degree: int) -> Floats:
        """[row, last, i]: seconds (see above); infinite where the layers or the cache do not fit."""
        key = (kind, degree)
        if key not in self._bands:
            fits = self.tables.room(kind, degree)[self.rows.batch] >= self.rows.room[:, None, None]
            cost = np.where(fits, self.tables.seconds(kind, degree)[self.rows.batch], np.inf)
            layers = np.arange(self.tables.layers + 1)
            width = int(np.max(np.where(np.isfinite(cost), layers - layers[:, None], 0)))
            first = layers[:, None] - width + np.arange(width)
            self._bands[key] = np.where(first >= 0, cost[:, np.maximum(first, 0), layers[:, None]], np.inf)
        return self._bands[key]

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
        self._masked.clear()
        for before, item in zip((None, *order), order, strict=False):
            if before is not None:
                value = value + (self.wire_s(before, item) + self._latency(before, item))[:, None]
            value = self._machine(item, value, cap_s)
        return np.asarray(value[:, -1])

    def cuts(self, order: Sequence[Item], cap_s: float) -> tuple[Cut, ...]:
        """The stages that `around` found, for a chain with one row."""
        cap = np.array([cap_s])
        self._masked.clear()
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
        bands = {degree: self._capped(kind, degree, cap_s) for degree in self.tables.degrees(item.devices)}
        for used in range(item.devices):
            before = states[used] + (inside_s if used else 0.0)
            if not np.isfinite(before).any():
                continue
            for degree in self.tables.degrees(item.devices - used):
                band = bands[degree]
                if band.shape[-1]:
                    after = _extend(before, band, add=cap_s is not None)
                    np.minimum(states[used + degree], after, out=states[used + degree])
        return states

    def _capped(self, kind: int, degree: int, cap_s: Floats | None) -> Floats:
        band = self.band(kind, degree)
        if cap_s is None or not np.isfinite(cap_s).any():
            return band
        key = (kind, degree)
        if key not in self._masked:
            self._masked[key] = np.where(band <= cap_s[:, None, None] * (1 + 1e-9), band, np.inf)
        return self._masked[key]

    def _trace(self, order: Sequence[Item], states: list[Floats], cap_s: Floats) -> tuple[Cut, ...]:
        """Backwards: which last stage gives each value; of equals the one nearest to its share of the layers."""
        cuts: list[Cut] = []
        last = self.tables.layers
        share = last / sum(item.devices for item in order)
        for index in range(len(order) - 1, -1, -1):
            used = 1 + int(np.argmin(states[index][1:, 0, last]))
            while used:
                cut = self._last_cut(order[index], index, states[index], used, last, cap_s, share)
                cuts.append(cut)
                used, last = used - cut.degree, cut.first
        return tuple(reversed(cuts))

    def _last_cut(
        self, item: Item, index: int, states: Floats, used: int, last: int, cap_s: Floats, share: float
    ) -> Cut:
        kind = self.tables.fleet.kind_of[item.of_class]
        inside_s = float(self.inside_s(item)[0])
        best: tuple[float, Cut] | None = None
        for degree in self.tables.degrees(used):
            band = self._capped(kind, degree, cap_s)[0, last]
            start = max(0, last - len(band))
            before = states[used - degree, 0, start:last] + (inside_s if used > degree else 0.0)
            total = before + band[len(band) - (last - start) :]
            least = float(np.min(total, initial=np.inf))
            if np.isfinite(least) and (best is None or least < best[0]):
                equals = start + np.flatnonzero(total <= least * (1 + 1e-9))
                first = int(equals[np.argmin(np.abs(last - equals - degree * share))])
                best = (least, Cut(index, degree, first, last))
        assert best is not None, "some stage ends where the state says"
        return best[1]


def _extend(before: Floats, band: Floats, add: bool) -> Floats:
    """[row, layers done] after one more stage."""
    width = band.shape[-1]
    padded = np.full((len(before), before.shape[1] + width - 1), np.inf)
    padded[:, width:] = before[:, :-1]
    # What `sliding_window_view` gives, without its checks, which would take longer than the work.
    rows, columns = padded.strides
    starts = np.lib.stride_tricks.as_strided(padded, (*before.shape, width), (rows, columns, columns), writeable=False)
    after = starts + band if add else np.maximum(starts, band)
    return np.asarray(after.min(axis=2))
