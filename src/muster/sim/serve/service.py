"""Requests, pipelines and faults of a simulated pool, brought together. Knows nothing of how requests were drawn."""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from muster.sim.network import Network
from muster.sim.serve.arrivals import Arrival
from muster.sim.serve.dispatch import Speed
from muster.sim.serve.pipeline_run import PipelineRun
from muster.sim.serve.ring import Ring
from muster.sim.serve.scheduler import Sequence as Request
from muster.sim.serve.slots import PipelineSlot
from muster.sim.standbys import Standbys
from muster.spec.faults import CutLink, Join, Leave
from muster.spec.plan import Pipeline
from muster.spec.pool import NodeId

RingOf = Callable[[int, Pipeline], Ring]
"""The pipeline in the place of the plan's with this index, on its machines."""
SpeedOf = Callable[[Ring], Speed]


class Service:
    def __init__(
        self,
        network: Network,
        slots: Sequence[PipelineSlot],
        standbys: Standbys,
        repair_s: float,
        ring_of: RingOf,
        speed_of: SpeedOf,
    ) -> None:
        self._network, self._events = network, network.events
        self._standbys, self._repair_s, self._ring_of = standbys, repair_s, ring_of
        self._speed_of = speed_of
        self.slots = tuple(slots)
        self.requests: list[Request] = []
        self._homeless: list[Request] = []
        """Wait for any pipeline to come up."""
        self._later: deque[Request] = deque()
        """Come when others have been answered."""
        self._at: dict[Request, PipelineSlot] = {}

    def run(self, arrivals: Sequence[Arrival], concurrency: int | None = None) -> None:
        """With `concurrency` so many come when they arrive, and each of the others when one has been answered."""
        for slot in self.slots:
            self._up(slot)
        # Faults first: who arrives in the moment of one meets the pool as it is then.
        for fault in self._network.faults.faults:
            if isinstance(fault, Leave):
                self._events.at(fault.at_s, self._leave, fault.node)
            elif isinstance(fault, Join):
                self._events.at(fault.at_s, self._join, fault.node)
            elif isinstance(fault, CutLink) and fault.until_s - fault.at_s > self._repair_s:
                self._events.at(fault.at_s, self._cut, fault)
        for rank, arrival in enumerate(sorted(arrivals, key=lambda a: a.at_s)):
            request = Request(rank, arrival, arrival.prompt_tokens, arrival.prompt_tokens + arrival.output_tokens)
            self.requests.append(request)
            if rank < (concurrency or len(arrivals)):
                self._events.at(arrival.at_s, self._place, request)
            else:
                self._later.append(request)
        self._events.run()

    # --- requests ---------------------------------------------------------------------------------------------------

    def _place(self, request: Request) -> None:
        up = [slot for slot in self.slots if slot.run is not None]
        if not up:
            self._homeless.append(request)
            return
        slot = min(up, key=PipelineSlot.expected_s)
        slot.load += 1
        self._at[request] = slot
        assert slot.run is not None
        slot.run.add(request)

    def _finished(self, request: Request) -> None:
        self._at.pop(request).load -= 1
        if self._later:
            following = self._later.popleft()
            following.arrival = replace(following.arrival, at_s=request.end_s)
            self._events.at(request.end_s, self._place, following)

    def _left(self, request: Request) -> None:
        self._at.pop(request).load -= 1
        self._place(request)

    def _level(self, mended: PipelineSlot) -> None:
        """Who had to go to others when a pipeline broke goes on in `mended`, as far as that has fewer requests."""
        up = [slot for slot in self.slots if slot.run is not None]
        requests, speed = sum(slot.load for slot in up), sum(slot.speed.requests_per_s for slot in up)
        for slot in up:
            more = int(slot.load - requests * slot.speed.requests_per_s / speed)
            if slot is not mended and more > 0 and slot.run is not None:
                slot.run.let_go(more)

    # --- pipelines --------------------------------------------------------------------------------------------------

    def _up(self, slot: PipelineSlot) -> None:
        slot.run = PipelineRun(slot.ring, self._network, self._finished, self._shared_wires(), self._left)
        slot.runs.append(slot.run)
        homeless, self._homeless = self._homeless, []
        for request in homeless:
            self._place(request)

    def _shared_wires(self) -> set[tuple[NodeId, NodeId]]:
        """Those that more than one step at a time may want, of different pipelines or of one that passes twice."""
        uses = Counter((hop.source.id, hop.target.id) for slot in self.slots for hop in slot.ring.hops)
        return {pair for pair, count in uses.items() if count > 1}

    def _down(self, slot: PipelineSlot) -> None:
        if slot.run is None:
            return
        lost = slot.run.break_down()
        slot.run, slot.load = None, 0
        self._events.at(self._events.now_s + self._repair_s, self._mend, slot)
        for request in lost:
            request.resubmissions += 1
            del self._at[request]
            self._place(request)

    def _mend(self, slot: PipelineSlot) -> None:
        if slot.run is not None:
            return
        pipeline = self._standbys.mend(slot.planned, slot.ring.pipeline, self._events.now_s)
        if pipeline is not None:
            slot.ring = self._ring_of(slot.index, pipeline)
            slot.speed = self._speed_of(slot.ring)
            self._up(slot)
            self._level(slot)

    # --- faults -----------------------------------------------------------------------------------------------------

    def _leave(self, node: NodeId) -> None:
        self._standbys.leave(node)
        for slot in self.slots:
            if node in slot.ring.pipeline.nodes():
                self._down(slot)

    def _join(self, node: NodeId) -> None:
        holders = {holder for slot in self.slots for holder in slot.ring.pipeline.nodes()}
        self._standbys.join(node, holders)
        for slot in self.slots:
            if self._standbys.can_restore(slot.planned, slot.ring.pipeline, self._events.now_s):
                self._down(slot)
        self._mend_later(self._events.now_s)

    def _cut(self, cut: CutLink[NodeId]) -> None:
        ends = {cut.source, cut.target}
        for slot in self.slots:
            if any({hop.source.id, hop.target.id} == ends for hop in slot.ring.hops):
                self._down(slot)
        self._events.at(cut.until_s, self._mend_later, cut.until_s)

    def _mend_later(self, now_s: float) -> None:
        """Somebody may be able to go on now."""
        for slot in self.slots:
            if slot.run is None:
                self._events.at(now_s + self._repair_s, self._mend, slot)
