"""How long to leave a pipeline alone after it was changed for a better one, so that plans do not flap. Pure.

Each change doubles the pause until the next look; a time twenty times as long without one halves it again. So whatever
oscillates, however cunningly: after a few changes there is at most one in twenty of the shortest pauses, and where
something better turns up at every look, one in each of the longest.

And every change makes the streams that run compute their prompts again, so a look waits for a moment without any, if
there is one soon.
"""

CALM = 20
"""So many pauses without a change halve the pause."""
PATIENCE_S = 60.0
"""How long a look that is due waits for running streams to end: most are over by then."""


class Pauses:
    def __init__(self, shortest_s: float, longest_s: float) -> None:
        self._shortest_s, self._longest_s = shortest_s, max(shortest_s, longest_s)
        self._pause_s = shortest_s
        self._calm_s = 0.0
        """Since when, or from when on, nothing was changed."""
        self._next_s = 0.0

    def is_over(self, now_s: float, streams: int = 0) -> bool:
        """Whether it is time for a look, with so many streams that it may disturb."""
        return now_s >= self._next_s + (PATIENCE_S if streams else 0.0)

    def looked(self, now_s: float) -> None:
        """And nothing was changed for the better, or something was mended: look again after the shortest pause."""
        self._next_s = max(self._next_s, now_s + self._shortest_s)

    def changed(self, now_s: float) -> None:
        """A pipeline that served was left for a better one."""
        while self._pause_s > self._shortest_s and now_s - self._calm_s > CALM * self._pause_s:
            self._calm_s += CALM * self._pause_s
            self._pause_s = max(self._shortest_s, self._pause_s / 2)
        self._calm_s = now_s
        self._next_s = now_s + self._pause_s
        self._pause_s = min(self._longest_s, 2 * self._pause_s)
