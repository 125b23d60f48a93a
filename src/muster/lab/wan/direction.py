"""What one direction between two hosts does to packets: turns on the wire, a delay, losses. No socket, no clock.

A packet is due when its last byte has left and travelled. Where packets come faster than the wire takes them they
queue, and what would wait longer than `MAX_QUEUE_S` is dropped, as routers do: senders learn the bandwidth from that.

Jitter drifts: from one draw to the next within `JITTER_PERIOD_S`, never as fast as time itself. So the order of
packets is kept, however many there are. Independent draws for each packet would turn the order over all the time,
which congestion control takes for loss, and which real paths do not do.
"""

from math import log
from random import Random

from muster.spec.scenario import Link

LOST = -1.0
"""Instead of a time: the packet does not arrive."""
MAX_QUEUE_S = 0.1
MIN_QUEUE_BYTES = 32 * 1500
"""Room in front of slow wires, where `MAX_QUEUE_S` would hold less than a burst."""
JITTER_PERIOD_S = 0.05


class Direction:
    """Times are of one monotonic clock, in seconds, and never go back."""

    def __init__(self, link: Link, random: Random) -> None:
        self.link = link
        self.passed = self.lost = self.dropped = 0
        """Packets: that arrive, that `loss` took, that found the queue full or the link cut."""
        self.passed_bytes = 0
        self.is_cut = False
        self._random = random
        self._latency_s = link.latency_s
        self._s_per_byte = 1.0 / link.bandwidth_bytes_per_s
        self._max_queue_s = max(MAX_QUEUE_S, MIN_QUEUE_BYTES * self._s_per_byte)
        self._free_s = 0.0
        """When the last byte that was taken has left."""
        self._until_loss = self._draw_gap()
        self._jitter = _Jitter(link.jitter_s, random)

    def due_s(self, nbytes: int, now_s: float) -> float:
        """When a packet that is sent now arrives, or `LOST`. Called for each packet: as few words as possible."""
        free_s = self._free_s
        if free_s < now_s:
            free_s = now_s
        if self.is_cut or free_s - now_s > self._max_queue_s:
            self.dropped += 1
            return LOST
        self._free_s = free_s = free_s + nbytes * self._s_per_byte
        if self._until_loss == 0:
            self._until_loss = self._draw_gap()
            self.lost += 1
            return LOST
        self._until_loss -= 1
        self.passed += 1
        self.passed_bytes += nbytes
        if self._jitter.most_s:
            free_s += self._jitter.at(free_s)
        return free_s + self._latency_s

    def slow(self, factor: float) -> None:
        """From now on the wire takes `factor` of its bandwidth; 1 ends it."""
        self._s_per_byte = 1.0 / (self.link.bandwidth_bytes_per_s * factor)
        self._max_queue_s = max(MAX_QUEUE_S, MIN_QUEUE_BYTES * self._s_per_byte)

    def _draw_gap(self) -> int:
        """Packets until the next loss. One draw for each loss instead of one for each packet."""
        if not self.link.loss:
            return -1  # counts down for ever
        return int(log(1.0 - self._random.random()) / log(1.0 - self.link.loss))


class _Jitter:
    """Between nothing and `most_s`, on straight lines between draws."""

    def __init__(self, most_s: float, random: Random) -> None:
        self.most_s = most_s
        self._random = random
        # A line is at most `most_s` high: twice that long, it is never steeper than half of time's own pace.
        self._period_s = max(JITTER_PERIOD_S, 2 * most_s)
        self._since_s = -1.0
        self._from_s = self._to_s = 0.0

    def at(self, now_s: float) -> float:
        share = (now_s - self._since_s) / self._period_s
        if share >= 1.0 or self._since_s < 0:
            share = self._next_line(now_s)
        return self._from_s + (self._to_s - self._from_s) * share

    def _next_line(self, now_s: float) -> float:
        """Go on where the last line ended, or anywhere after a silence."""
        draw = self._random.uniform
        fresh = self._since_s < 0 or now_s - self._since_s >= 2 * self._period_s
        self._since_s = now_s if fresh else self._since_s + self._period_s
        self._from_s = draw(0.0, self.most_s) if fresh else self._to_s
        self._to_s = draw(0.0, self.most_s)
        return (now_s - self._since_s) / self._period_s
