"""How long frames take on one direction of a slow, far link: fair turns on the wire, then a delay. Knows no channels.

Frames of several lanes share one wire. Like the packets of QUIC streams they take turns, a quantum of bytes at a time,
so a heartbeat does not wait behind weights. A frame is due when its last byte has left and travelled: the delay
pipelines, so any number of frames can be under way at once. Who delivers keeps the order: a frame may be due before
one that left earlier.
"""

from asyncio import Event, get_running_loop, sleep
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from math import ceil
from random import Random

from muster.spec.scenario import Link

PACKET_BYTES = 1200
"""What one loss costs: a packet of QUIC on most paths."""
QUANTUM_S = 0.002
MIN_QUANTUM_BYTES = 16 * 1024
MIN_WINDOW_BYTES = 1024 * 1024


@dataclass(slots=True)
class Parcel:
    """One frame on its way since `since_s`. `deliver` is told when it is due. Both in the loop's time."""

    nbytes: int
    since_s: float
    deliver: Callable[[float], None]
    left: int = field(init=False)

    def __post_init__(self) -> None:
        self.left = self.nbytes


Lane = deque[Parcel]
"""One channel's queue at the wire, in the order in which its frames leave."""


class ShapedWire:
    """The wire. `run` must be running; `link` is asked anew at every turn, because a peer's region may be learnt."""

    def __init__(self, link: Callable[[], Link], random: Random) -> None:
        self._link = link
        self._random = random
        self._busy: deque[Lane] = deque()
        self._work = Event()
        self._free_s = 0.0
        """When the last byte that got its turn has left."""

    def window_bytes(self) -> int:
        """What one lane may have under way: twice what fills the pipe, as a well-tuned transport would allow."""
        link = self._link()
        return max(MIN_WINDOW_BYTES, int(2 * link.bandwidth_bytes_per_s * (link.latency_s + link.jitter_s)))

    def put(self, lane: Lane, parcel: Parcel) -> None:
        if not lane:
            self._busy.append(lane)
        lane.append(parcel)
        self._work.set()

    async def run(self) -> None:
        loop = get_running_loop()
        while True:
            if not self._busy:
                self._work.clear()
                await self._work.wait()
            ahead_s = self._free_s - loop.time()
            if ahead_s > QUANTUM_S:
                await sleep(ahead_s - QUANTUM_S / 2)
            else:
                self._turn()

    def _turn(self) -> None:
        """The next lane sends up to a quantum."""
        link = self._link()
        lane = self._busy.popleft()
        parcel = lane[0]
        sent = min(parcel.left, max(MIN_QUANTUM_BYTES, int(link.bandwidth_bytes_per_s * QUANTUM_S)))
        parcel.left -= sent
        # Counted from when the wire was free and not from now: a turn that comes late on a busy machine costs nothing.
        self._free_s = max(self._free_s, parcel.since_s) + sent / link.bandwidth_bytes_per_s
        if not parcel.left:
            lane.popleft()
            parcel.deliver(self._free_s + self._travel_s(link, parcel.nbytes))
        if lane:
            self._busy.append(lane)

    def _travel_s(self, link: Link, nbytes: int) -> float:
        """A lost packet is noticed and sent again, which takes about one more round trip."""
        travel_s = link.latency_s + self._random.uniform(0.0, link.jitter_s)
        intact = (1.0 - link.loss) ** ceil(nbytes / PACKET_BYTES)
        while self._random.random() >= intact:
            travel_s += 2 * link.latency_s
            intact = 1.0 - link.loss  # only the lost packet goes again
        return travel_s
