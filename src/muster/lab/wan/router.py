"""The router of a lab: packets from every host's device to every other's, each at its time. One thread, one core.

How long a packet takes says `direction`; what is in it beyond its destination nobody asks. Packets wait in slots of
`1 / SLOTS_PER_S` seconds, a slot leaves at once: so many packets cost one wake-up, and none is more than half a slot
early. Memory for what is under way is bounded; what comes on top is dropped and counted.
"""

import os
import select
import time
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush
from math import inf

from muster.lab.wan.direction import Direction

SLOTS_PER_S = 4000.0
BATCH = 64
"""Packets that are taken from one host before the next has its turn, and what is due leaves."""
MAX_PACKET_BYTES = 2048
MAX_UNDER_WAY_PACKETS = 400_000
"""Of 1,500 bytes: 0.7 GB with what Python adds."""
LONGEST_WAIT_S = 0.1


@dataclass(slots=True)
class Totals:
    """What the router itself did to packets; what links did stands in each direction."""

    packets: int = 0
    strange: int = 0
    """To nobody in the lab, or no IPv4."""
    crowded_out: int = 0
    """Dropped because more was under way than the router holds."""
    refused: int = 0
    """A host's device would not take them."""
    latest_s: float = 0.0
    """How long after its time the latest slot left: what the router adds to the delays that were asked for."""


class Router:
    """`connect` first, then `run`. `clock` is monotonic."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.totals = Totals()
        self._clock = clock
        self._epoll = select.epoll()
        self._routes: dict[int, dict[bytes, tuple[Direction, int]]] = {}
        """By device: what its packets to an address go through, and the device at the end."""
        self._watched: dict[int, Callable[[], None]] = {}
        self._slots: dict[int, list[tuple[int, bytes]]] = {}
        self._order: list[int] = []
        """Numbers of the slots that hold something, as a heap."""
        self._under_way = 0
        self._calls: list[tuple[float, int, Callable[[], None]]] = []
        self._running = True

    def connect(self, source: int, address: bytes, target: int, direction: Direction) -> None:
        """What comes from device `source` for `address` goes through `direction` to device `target`."""
        if source not in self._routes:
            self._routes[source] = {}
            self._epoll.register(source, select.EPOLLIN)
        self._routes[source][address] = direction, target

    def watch(self, descriptor: int, ready: Callable[[], None]) -> None:
        """Call `ready` between batches when there is something to read."""
        self._watched[descriptor] = ready
        self._epoll.register(descriptor, select.EPOLLIN)

    def unwatch(self, descriptor: int) -> None:
        self._epoll.unregister(descriptor)
        del self._watched[descriptor]

    def call_at(self, at_s: float, call: Callable[[], None]) -> None:
        """`at_s` is of the router's clock."""
        heappush(self._calls, (at_s, len(self._calls), call))

    def stop(self) -> None:
        self._running = False

    def run(self) -> None:
        """Until `stop`."""
        while self._running:
            self._wait()
            for descriptor, _ in self._epoll.poll(0):
                if descriptor in self._routes:
                    self._take(descriptor)
                else:
                    self._watched[descriptor]()
            self._deliver()
            while self._calls and self._calls[0][0] <= self._clock():
                heappop(self._calls)[2]()

    def _wait(self) -> None:
        next_s = self._order[0] / SLOTS_PER_S if self._order else inf
        if self._calls:
            next_s = min(next_s, self._calls[0][0])
        wait_s = min(LONGEST_WAIT_S, next_s - self._clock())
        if wait_s > 0:
            # Not `epoll.poll(wait_s)`, which counts in whole milliseconds.
            select.select([self._epoll.fileno()], [], [], wait_s)

    def _take(self, device: int) -> None:
        """A batch of what the host sends. This loop and the one below are where the router's time goes."""
        routes, slots, read = self._routes[device], self._slots, os.read
        now_s = self._clock()
        taken = 0
        try:
            while taken < BATCH:
                packet = read(device, MAX_PACKET_BYTES)
                taken += 1
                route = routes.get(packet[16:20])  # the destination, in an IPv4 header
                if route is None or packet[0] >> 4 != 4:
                    self.totals.strange += 1
                    continue
                due_s = route[0].due_s(len(packet), now_s)
                if due_s < 0:
                    continue
                slot = int(due_s * SLOTS_PER_S + 0.5)
                if slot in slots:
                    slots[slot].append((route[1], packet))
                else:
                    slots[slot] = [(route[1], packet)]
                    heappush(self._order, slot)
                self._under_way += 1
                if self._under_way > MAX_UNDER_WAY_PACKETS:
                    slots[slot].pop()
                    self._under_way -= 1
                    self.totals.crowded_out += 1
        except BlockingIOError:
            pass
        self.totals.packets += taken

    def _deliver(self) -> None:
        """All slots whose time has come."""
        order, slots, write = self._order, self._slots, os.write
        now_s = self._clock()
        last = int(now_s * SLOTS_PER_S)
        if order and order[0] <= last:
            self.totals.latest_s = max(self.totals.latest_s, now_s - order[0] / SLOTS_PER_S)
        while order and order[0] <= last:
            leaving = slots.pop(heappop(order))
            self._under_way -= len(leaving)
            for target, packet in leaving:
                try:
                    write(target, packet)
                except OSError:
                    self.totals.refused += 1
