"""A disk that gives so many bytes per second and no more: the twin with which tests of overlap are exact."""

import time
from threading import Lock

from muster.offload.direct import ReadsBlocks


class ThrottledFile:
    """`inner`, slowed down. All that share a `Throttle` share its rate, as files of one disk do."""

    def __init__(self, inner: ReadsBlocks, throttle: "Throttle") -> None:
        self._inner, self._throttle = inner, throttle

    def read_into(self, target: memoryview, start: int, needed: int) -> None:
        self._inner.read_into(target, start, needed)
        self._throttle.wait(needed)

    def check_unchanged(self) -> None:
        self._inner.check_unchanged()


class Throttle:
    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._lock = Lock()
        self._free_at_s = 0.0

    def wait(self, nbytes: int) -> None:
        """Until a link of this rate would have carried these bytes behind all that came before."""
        with self._lock:
            begins_s = max(self._free_at_s, time.monotonic())
            self._free_at_s = begins_s + nbytes / self._bytes_per_s
            due_s = self._free_at_s
        time.sleep(max(0.0, due_s - time.monotonic()))
