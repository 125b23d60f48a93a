"""Requests, pipelines and faults of a simulated pool, brought together. Knows nothing of how requests were drawn."""

from collections import Counter
from collections.abc import Callable, Sequence

from muster.sim.arrivals import Arrival
from muster.sim.faults import CutLink, Join, Leave
from muster.sim.head import Sequence as Request
from muster.sim.line import Line, World
from muster.sim.places import Place, Standbys
from muster.sim.ring import Ring
from muster.spec.plan import Pipeline
from muster.spec.pool import NodeId

RingOf = Callable[[int, Pipeline], Ring]
"""The pipeline in the place of the plan's with this index, on its machines."""


class Service:
    def __init__(
        self, world: World, places: Sequence[Place], standbys: Standbys, repair_s: float, ring_of: RingOf
    ) -> None:
        self._world, self._events = world, world.events
        self._standbys, self._repair_s, self._ring_of = standbys, repair_s, ring_of
        self.places = tuple(places)
        self.requests: list[Request] = []
        self._homeless: list[Request] = []
        """Wait for any pipeline to come up."""
        self._at: dict[Request, Place] = {}

    def run(self, arrivals: Sequence[Arrival]) -> None:
        for place in self.places:
            self._up(place)
        # Faults first: who arrives in the moment of one meets the pool as it is then.
        for fault in self._world.weather.faults:
            if isinstance(fault, Leave):
                self._events.at(fault.at_s, self._leave, fault.node)
            elif isinstance(fault, Join):
                self._events.at(fault.at_s, self._join, fault.node)
            elif isinstance(fault, CutLink) and fault.until_s - fault.at_s > self._repair_s:
                self._events.at(fault.at_s, self._cut, fault)
        for rank, arrival in enumerate(sorted(arrivals, key=lambda a: a.at_s)):
            request = Request(rank, arrival, arrival.prompt_tokens, arrival.prompt_tokens + arrival.output_tokens)
            self.requests.append(request)
            self._events.at(arrival.at_s, self._place, request)
        self._events.run()

    # --- requests ---------------------------------------------------------------------------------------------------

    def _place(self, request: Request) -> None:
        up = [place for place in self.places if place.line is not None]
        if not up:
            self._homeless.append(request)
            return
        place = min(up, key=_pressure)
        place.load += 1
        self._at[request] = place
        assert place.line is not None
        place.line.add(request)

    def _finished(self, request: Request) -> None:
        self._at.pop(request).load -= 1

    # --- pipelines --------------------------------------------------------------------------------------------------

    def _up(self, place: Place) -> None:
        place.line = Line(place.ring, self._world, self._finished, self._shared_wires())
        place.lines.append(place.line)
        homeless, self._homeless = self._homeless, []
        for request in homeless:
            self._place(request)

    def _shared_wires(self) -> set[tuple[NodeId, NodeId]]:
        """Those that more than one step at a time may want, of different pipelines or of one that passes twice."""
        uses = Counter((hop.source.id, hop.target.id) for place in self.places for hop in place.ring.hops)
        return {pair for pair, count in uses.items() if count > 1}

    def _down(self, place: Place) -> None:
        if place.line is None:
            return
        lost = place.line.break_down()
        place.line, place.load = None, 0
        self._events.at(self._events.now_s + self._repair_s, self._mend, place)
        for request in lost:
            request.resubmissions += 1
            del self._at[request]
            self._place(request)

    def _mend(self, place: Place) -> None:
        if place.line is not None:
            return
        pipeline = self._standbys.mend(place.planned, place.ring.pipeline, self._events.now_s)
        if pipeline is not None:
            place.ring = self._ring_of(place.index, pipeline)
            self._up(place)

    # --- faults -----------------------------------------------------------------------------------------------------

    def _leave(self, node: NodeId) -> None:
        self._standbys.leave(node)
        for place in self.places:
            if node in place.ring.pipeline.nodes():
                self._down(place)

    def _join(self, node: NodeId) -> None:
        holders = {holder for place in self.places for holder in place.ring.pipeline.nodes()}
        self._standbys.join(node, holders)
        for place in self.places:
            if self._standbys.can_restore(place.planned, place.ring.pipeline, self._events.now_s):
                self._down(place)
        self._mend_later(self._events.now_s)

    def _cut(self, cut: CutLink) -> None:
        ends = {cut.source, cut.target}
        for place in self.places:
            if any({hop.source.id, hop.target.id} == ends for hop in place.ring.hops):
                self._down(place)
        self._events.at(cut.until_s, self._mend_later, cut.until_s)

    def _mend_later(self, now_s: float) -> None:
        """Somebody may be able to go on now."""
        for place in self.places:
            if place.line is None:
                self._events.at(now_s + self._repair_s, self._mend, place)


def _pressure(place: Place) -> float:
    return (place.load + 1) / place.weight
