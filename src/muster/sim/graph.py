"""One training step of a graph in pieces, event by event: the schedule that pieces carry out, not a formula. No torch.

A piece computes one thing at a time, and whatever is complete, first come, first served: a forward pass once all values
of a microbatch are there, a backward pass once all gradients are. Microbatches keep their order. Each direction between
two pieces is a wire that carries one message at a time; latency comes on top and overlaps.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from muster.errors import InvalidRequest
from muster.sim.events import Events
from muster.sim.timeline import Span, link_lane

Way = Literal["forward", "backward"]


@dataclass(frozen=True, slots=True)
class PieceWork:
    """Of one microbatch."""

    name: str
    forward_s: float
    backward_s: float


@dataclass(frozen=True, slots=True)
class PieceFlow:
    """What one piece sends another for each microbatch, and the gradients that come back."""

    source: int
    target: int
    forward_bytes: float
    backward_bytes: float
    latency_s: float
    forward_bytes_per_s: float
    backward_bytes_per_s: float


@dataclass(frozen=True, slots=True)
class GraphRun:
    step_s: float
    busy_s: tuple[float, ...]
    """Computing, of each piece."""
    in_flight: tuple[int, ...]
    """Most microbatches whose activations each piece held at once."""
    wire_s: tuple[tuple[float, float], ...]
    """Sending, there and back, of each flow."""
    spans: tuple[Span, ...]


def simulate_graph(
    pieces: Sequence[PieceWork], flows: Sequence[PieceFlow], microbatches: int, timeline: bool = False
) -> GraphRun:
    """Raises `InvalidRequest` where pieces wait for each other."""
    return _GraphStep(pieces, flows, microbatches, timeline).run()


class _GraphStep:
    def __init__(
        self, pieces: Sequence[PieceWork], flows: Sequence[PieceFlow], microbatches: int, timeline: bool
    ) -> None:
        self._pieces, self._flows, self._microbatches, self._timeline = pieces, flows, microbatches, timeline
        self._events = Events()
        count = len(pieces)
        self._leaving = [[one for one in range(len(flows)) if flows[one].source == piece] for piece in range(count)]
        self._coming = [[one for one in range(len(flows)) if flows[one].target == piece] for piece in range(count)]
        self._arrived: dict[tuple[int, Way, int], int] = {}
        self._next = {(piece, way): 0 for piece in range(count) for way in ("forward", "backward")}
        self._ready: list[deque[tuple[Way, int]]] = [deque() for _ in pieces]
        self._working = [False] * count
        self._free_s: dict[tuple[int, Way], float] = {}
        self._busy_s, self._held, self._most = [0.0] * count, [0] * count, [0] * count
        self._wire_s = [[0.0, 0.0] for _ in flows]
        self._spans: list[Span] = []
        self._done = 0

    def run(self) -> GraphRun:
        for piece in range(len(self._pieces)):
            self._see(piece, "forward")
        self._events.run()
        if self._done < len(self._pieces) * self._microbatches:
            raise InvalidRequest("Pieces of the graph wait for each other; cut it so that data flow one way.")
        wires = tuple((there, back) for there, back in self._wire_s)
        return GraphRun(self._events.now_s, tuple(self._busy_s), tuple(self._most), wires, tuple(self._spans))

    def _see(self, piece: int, way: Way) -> None:
        """Whatever of this way is complete gets in line."""
        due = len(self._coming[piece]) if way == "forward" else len(self._leaving[piece]) + 1
        while (number := self._next[piece, way]) < self._microbatches and self._arrived.get(
            (piece, way, number), 0
        ) == due:
            self._next[piece, way] += 1
            self._ready[piece].append((way, number))
        self._work(piece)

    def _work(self, piece: int) -> None:
        if self._working[piece] or not self._ready[piece]:
            return
        way, number = self._ready[piece].popleft()
        self._working[piece] = True
        seconds = self._pieces[piece].forward_s if way == "forward" else self._pieces[piece].backward_s
        self._busy_s[piece] += seconds
        if way == "forward":
            self._held[piece] += 1
            self._most[piece] = max(self._most[piece], self._held[piece])
        self._show(self._pieces[piece].name, self._events.now_s, seconds, way, number)
        self._events.at(self._events.now_s + seconds, self._end, piece, way, number)

    def _end(self, piece: int, way: Way, number: int) -> None:
        self._working[piece] = False
        if way == "forward":
            self._arrive(piece, "backward", number)  # its own forward pass is what a backward pass needs, too
        else:
            self._held[piece] -= 1
            self._done += 1
        for flow in self._leaving[piece] if way == "forward" else self._coming[piece]:
            self._send(flow, way, number)
        self._work(piece)

    def _send(self, index: int, way: Way, number: int) -> None:
        flow, back = self._flows[index], way == "backward"
        rate = flow.backward_bytes_per_s if back else flow.forward_bytes_per_s
        seconds = (flow.backward_bytes if back else flow.forward_bytes) / rate
        ends = (flow.target, flow.source) if back else (flow.source, flow.target)
        start_s = max(self._events.now_s, self._free_s.get((index, way), 0.0))
        self._free_s[index, way] = start_s + seconds
        self._wire_s[index][back] += seconds
        self._show(link_lane(*(self._pieces[end].name for end in ends)), start_s, seconds, "send", number)
        self._events.at(start_s + seconds + flow.latency_s, self._arrive, ends[1], way, number)

    def _arrive(self, piece: int, way: Way, number: int) -> None:
        key = piece, way, number
        self._arrived[key] = self._arrived.get(key, 0) + 1
        self._see(piece, way)

    def _show(self, lane: str, start_s: float, seconds: float, kind: Literal[Way, "send"], number: int) -> None:
        if self._timeline:
            self._spans.append(Span(lane, start_s, start_s + seconds, kind, f"microbatch {number + 1}"))
