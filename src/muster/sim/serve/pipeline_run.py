"""One ring at work in simulated time: steps leave the head, pass stages and wires one after the other, and come back.

The head computes one step at a time and takes in what came back before each (`node/runners/serve`); other stages take
steps in the order in which they come. A wire carries one message after the other, whoever sends it.
"""

from collections.abc import Callable, Set
from dataclasses import dataclass, replace
from math import inf

from muster.sim.network import Network, Wire
from muster.sim.serve.in_flight import StepsInFlight
from muster.sim.serve.ring import Hop, Ring
from muster.sim.serve.rounds import MAX_IN_FLIGHT
from muster.sim.serve.scheduler import Sequence, SimulatedScheduler, Turn
from muster.sim.timeline import Span, SpanKind, link_lane, stage_lane
from muster.spec.pool import NodeId


@dataclass(slots=True)
class _Leg:
    """A hop with what is asked of it again and again."""

    hop: Hop
    wire: Wire
    is_shared: bool
    byte_s: float
    latency_s: float


def _leg(hop: Hop, network: Network, shared: Set[tuple[NodeId, NodeId]]) -> _Leg:
    pair = (hop.source.id, hop.target.id)
    wire = network.wires.setdefault(pair, Wire())
    return _Leg(hop, wire, pair in shared, 1 / hop.link.bandwidth_bytes_per_s, hop.link.latency_s)


class PipelineRun:
    """A pipeline that is up. `finished` hears of each sequence that has its last token, `left` of who goes elsewhere.

    Where a wire is nobody else's, a step's way is known when it leaves, since nothing overtakes it; only on `shared`
    wires it has to wait and see who comes first.
    """

    def __init__(
        self,
        ring: Ring,
        network: Network,
        finished: Callable[[Sequence], None],
        shared: Set[tuple[NodeId, NodeId]],
        left: Callable[[Sequence], None],
    ) -> None:
        self.ring, self._network, self._finished, self._left = ring, network, finished, left
        self.head = SimulatedScheduler(
            ring.num_pages, ring.pipeline.serve.page_size, ring.in_flight, ring.rules.prefill_tokens, ring.max_batch
        )
        most = MAX_IN_FLIGHT if ring.rules.learns and ring.hops else ring.in_flight
        self._in_flight = StepsInFlight(ring.in_flight, most)
        self._main_pages = ring.pipeline.serve.num_pages - 2 * ring.pipeline.serve.swap_pages
        self._lanes = [
            stage_lane(node.name, stage.devices, node.device_count)
            for stage, node in zip(ring.stages, ring.nodes, strict=True)
        ]
        self._legs = [_leg(hop, network, shared) for hop in ring.hops]
        self._faults = bool(network.faults.faults)
        self._submitted = 0
        self._flight = 0
        self._returned: list[Turn] = []
        self._head_works = False
        self._woken = False
        self._free_s = [-inf] * len(ring.stages)
        self._last_s = [0.0] * len(ring.stages)
        """What the last step took, by stage."""
        self.busy_s = [0.0] * len(ring.stages)
        self.steps = 0
        self.swapped_pages = 0.0
        self.spans: list[Span] = []
        self.down = False

    def add(self, sequence: Sequence) -> None:
        sequence.rank = self._submitted
        self._submitted += 1
        self.head.add(sequence)
        if not self._woken:
            # Whatever comes at this very moment comes into one turn.
            self._woken = True
            self._network.events.at(self._network.events.now_s, self._wake)

    def _wake(self) -> None:
        self._woken = False
        self._go()

    def break_down(self) -> list[Sequence]:
        """Whatever was under way is lost; who has not finished."""
        self.down = True
        now_s = self._network.events.now_s
        self.spans = [replace(span, end_s=min(span.end_s, now_s)) for span in self.spans if span.start_s < now_s]
        for leg in self._legs:
            # What was on its way is not waited for.
            leg.wire.free_s = min(leg.wire.free_s, now_s)
        return self.head.give_up()

    def let_go(self, count: int) -> None:
        """As many as that of those from broken pipelines leave, now or when their next token is here."""
        for sequence in self.head.let_go(count):
            self._left(sequence)

    def _go(self) -> None:
        """If the head is idle: take in what came back, and send the next step on its way."""
        if self._head_works or self.down:
            return
        back, self._returned = self._returned, []
        self._flight -= len(back)
        came = [self.head.returned(turn) for turn in back]
        out_s = now_s = self._network.events.now_s
        self.head.in_flight = self._in_flight.limit
        turn = self.head.turn() if self._flight < self._in_flight.limit else None
        if turn is not None:
            done_s = self._compute(0, now_s, turn)
            self._flight += 1
            self._head_works = True
            self._network.events.at(done_s, self._head_done)
            turn.left_s = done_s
            self._travel(turn, 0, done_s)
            if self._legs:
                # Tokens that came back are handed out when the step after them is computed (HeadRuntime._turn).
                out_s = done_s
        for started, finished in came:
            self._hand_out(started, finished, out_s)
        gone, self.head.gone = self.head.gone, []
        for sequence in gone:
            self._left(sequence)
        if back:
            self._network.tokens.append((out_s, sum([len(turn.sampling) for turn in back])))

    def _hand_out(self, started: list[Sequence], finished: list[Sequence], out_s: float) -> None:
        for sequence in started:
            sequence.first_s = out_s
        for sequence in finished:
            sequence.end_s = out_s
            self._finished(sequence)

    def _head_done(self) -> None:
        self._head_works = False
        self._go()

    def _travel(self, turn: Turn, stage: int, ready_s: float) -> None:
        """From `stage`, which is done with the step at `ready_s`, as far as can be said now."""
        legs, events = self._legs, self._network.events
        while legs:
            leg = legs[stage]
            if leg.is_shared and ready_s > events.now_s:
                events.at(ready_s, self._go_on, turn, stage)
                return
            ready_s = self._carry(leg, turn, ready_s)
            stage += 1
            if stage == len(legs):
                break
            ready_s = self._compute(stage, ready_s, turn)
        events.at(ready_s, self._come_back, turn)

    def _go_on(self, turn: Turn, stage: int) -> None:
        if not self.down:
            self._travel(turn, stage, self._network.events.now_s)

    def _come_back(self, turn: Turn) -> None:
        if self.down:
            return
        for stage, seconds in enumerate(turn.worked_s):
            self.busy_s[stage] += seconds
        self.steps += 1
        if self.ring.rules.learns:
            away_s = self._network.events.now_s - turn.left_s
            self._in_flight.observe(turn.worked_s, away_s - sum(turn.worked_s[1:]) - turn.waited_s)
        self._returned.append(turn)
        self._go()

    def _compute(self, stage: int, ready_s: float, turn: Turn) -> float:
        """When the stage is done with the step; it starts it as soon as it has done those before."""
        free_s, like = self._free_s[stage], self.ring.alike[stage]
        start_s = ready_s if ready_s > free_s else free_s
        turn.waited_s += start_s - ready_s
        pace, seconds = self.ring.paces[stage], turn.stage_s.get(like)
        if seconds is None:
            seconds = turn.stage_s[like] = pace.seconds(turn.load)
        seconds -= pace.spared_s(start_s - free_s, self._last_s[stage])
        if self.ring.swap_s:
            seconds = max(seconds, self._swap_s(turn, stage))
        if self._faults:
            seconds /= self._network.faults.speed(self.ring.nodes[stage].id, start_s)
        self._free_s[stage] = end_s = start_s + seconds
        self._last_s[stage] = seconds
        turn.worked_s.append(seconds)
        if self._network.shows:
            kind: SpanKind = "prefill" if turn.load.chunks else "decode"
            self.spans.append(Span(self._lanes[stage], start_s, end_s, kind, f"step {turn.number}"))
        return end_s

    def _carry(self, leg: _Leg, turn: Turn, ready_s: float) -> float:
        """When the step's message has arrived at the other end."""
        hop, wire = leg.hop, leg.wire
        nbytes = hop.nbytes(turn.load)
        start_s = ready_s if ready_s > wire.free_s else wire.free_s
        if self._faults:
            start_s = self._network.faults.passable_s(hop.source.id, hop.target.id, start_s)
        wire.free_s = end_s = start_s + nbytes * leg.byte_s
        wire.sent_bytes += nbytes
        if self._network.shows:
            lane = link_lane(hop.source.name, hop.target.name)
            self.spans.append(Span(lane, start_s, end_s, "send", f"step {turn.number}"))
        return end_s + leg.latency_s

    def _swap_s(self, turn: Turn, stage: int) -> float:
        """For the cache of this step's sequences that does not fit beside the others': out of one slice, into another.

        The microbatches share the pages that are not swapped, so each swaps its part of what is used beyond them.
        """
        swapped = (self.head.used_pages - self._main_pages) / self.ring.in_flight
        if swapped <= 0 or not self.ring.pipeline.serve.swap_pages:
            return 0.0
        if stage == 0:
            self.swapped_pages += swapped
        return self.ring.swap_s * swapped / self.ring.pipeline.serve.swap_pages
