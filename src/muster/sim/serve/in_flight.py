"""How many steps the head of a ring keeps in flight: as few as keep the slowest stage busy, from what steps tell.

Every step brings back what it took at each stage, so the head knows how long a round lasts and for how long nobody
works in it (`rounds.steps_in_flight` is the law). The number changes every second round at most: up by as much as it
must, since the slowest stage idles meanwhile, and down one by one, where it is two too many: every change makes steps
of another size for a while. Engines and simulated rings go by this. Knows no clock, and nothing of what steps carry.
"""

from collections.abc import Sequence
from math import ceil, sqrt

from muster.sim.serve.rounds import MAX_IN_FLIGHT, READY, steps_in_flight

_MEMORY_ROUNDS = 2.0
"""What a step took counts for the mean over about so many rounds."""
_MEMORY_STEPS = 16.0
"""And over so many steps at least."""
_DEVIATIONS = 1.0
"""A round may last longer than the mean by so many standard deviations before the slowest stage runs dry."""
_ROUNDS = 2
"""Between two changes."""
_QUEUED = 0.4
"""Share of the slowest stage's time by which each further step made a round longer, from which on it only queues."""
_HOLD, _LONGEST_HOLD = 3, 256
"""So often it is not raised then; twice as often the next time, since a latency that grew by itself looks the same."""
_FASTER = 2.0
"""It grows by this factor a round at most: the first steps on a cold machine say little."""


class StepsInFlight:
    """`limit` is how many there may be now."""

    def __init__(self, start: int, most: int = MAX_IN_FLIGHT) -> None:
        self._most = max(start, most)
        self.limit = start
        self._means: list[_Mean] = []
        self._latency = _Mean()
        self._seen = 0
        self._raised: tuple[int, float] | None = None
        """The limit before it was last raised, and the latency at that time."""
        self._hold = 0
        """How often it is not raised now, and how often the next time."""
        self._patience = _HOLD

    def observe(self, stage_s: Sequence[float], latency_s: float) -> None:
        """A step came back: the seconds that it took at each stage, and those in which nobody worked on it or could."""
        if len(self._means) != len(stage_s):
            self._means, self._latency, self._seen = [_Mean() for _ in stage_s], _Mean(), 0
        memory = max(_MEMORY_STEPS, _MEMORY_ROUNDS * self.limit)
        for mean, seconds in zip(self._means, stage_s, strict=True):
            mean.add(seconds, memory)
        self._latency.add(max(0.0, latency_s), memory)
        self._seen += 1
        if self._seen >= _ROUNDS * self.limit:
            self._seen = 0
            self._adapt()

    def _adapt(self) -> None:
        stage_s = [max(mean.value, 1e-9) for mean in self._means]
        spread_s = _DEVIATIONS * sqrt(self._latency.variance + sum(mean.variance for mean in self._means))
        wanted = min(self._most, READY + steps_in_flight(stage_s, self._latency.value, spread_s, self._most))
        self._hold = max(0, self._hold - 1)
        if wanted > self.limit and (useful := self._useful(stage_s)):
            self.limit, self._raised = useful, None
            self._hold, self._patience = self._patience, min(_LONGEST_HOLD, 2 * self._patience)
        elif wanted > self.limit and not self._hold:
            self._raised = self.limit, self._latency.value
            self.limit = min(wanted, int(_FASTER * self.limit))
        elif wanted < self.limit - 1:
            self.limit -= 1

    def _useful(self, stage_s: Sequence[float]) -> int:
        """How many of the steps are of use, where those that were added last only wait; 0 where they do not.

        Then each of them is under way for as much longer as a stage takes for it: it is a wire that is busy all the
        time, and the latency that asks for more steps is that of their queue.
        """
        if self._raised is None:
            return 0
        before, short_s = self._raised
        long_s = self._latency.value
        if long_s - short_s < _QUEUED * (self.limit - before) * max(stage_s):
            self._patience = _HOLD
            return 0
        if self._patience > _HOLD:
            return before  # it was so the last time as well
        share = (sum(stage_s) + short_s) / (sum(stage_s) + long_s)
        return min(self.limit, max(before, READY + ceil(share * self.limit)))


class _Mean:
    """Of the last values, each of which counts less than the one after it."""

    def __init__(self) -> None:
        self.value = self.variance = 0.0
        self._count = 0

    def add(self, value: float, memory: float) -> None:
        self._count += 1
        weight = max(1 / self._count, 1 / memory)
        before = value - self.value
        self.value += weight * before
        self.variance += weight * (before * (value - self.value) - self.variance)
