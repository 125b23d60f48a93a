"""Memory through which records come from disk and go back: a ring in which whoever came first leaves first."""

from collections import deque
from concurrent.futures import Future

from muster.errors import MachineTrouble
from muster.offload.direct import aligned_buffer, aligned_up


class StagingRegion:
    """Part of the ring; given back when its user has `released` it and its writes are over."""

    def __init__(self, start: int, memory: memoryview) -> None:
        self.start, self.memory = start, memory
        self.writes: list[Future[None]] = []
        self.released = False


class Staging:
    def __init__(self, nbytes: int) -> None:
        self.nbytes = aligned_up(nbytes)
        self._buffer = aligned_buffer(self.nbytes)
        self._regions: deque[StagingRegion] = deque()
        self._head = 0

    def try_take(self, nbytes: int) -> StagingRegion | None:
        """None where there is no room now."""
        nbytes = aligned_up(nbytes)
        self._collect(wait=False)
        start = self._place(nbytes)
        if start is None:
            return None
        region = StagingRegion(start, self._buffer[start : start + nbytes])
        self._regions.append(region)
        self._head = start + nbytes
        return region

    def take(self, nbytes: int) -> StagingRegion:
        """Waits for writes. Raises `MachineTrouble` where so much is never free at once."""
        while (region := self.try_take(nbytes)) is None:
            if not self._regions or not self._regions[0].released:
                raise MachineTrouble(
                    f"The cache of one sequence takes {nbytes / 1e6:.0f} MB at once on its way from disk, and "
                    f"{self.nbytes / 1e6:.0f} MB are set aside; raise --memory or ask for a smaller context."
                )
            self._collect(wait=True)
        return region

    def _place(self, nbytes: int) -> int | None:
        if not self._regions:
            return 0 if nbytes <= self.nbytes else None
        tail = self._regions[0].start
        if self._head > tail:
            if self._head + nbytes <= self.nbytes:
                return self._head
            return 0 if nbytes < tail else None
        return self._head if self._head + nbytes < tail else None

    def _collect(self, wait: bool) -> None:
        """Give back the oldest that are over; with `wait`, at least one that was released."""
        while self._regions and self._regions[0].released:
            writes = self._regions[0].writes
            if not wait and not all(write.done() for write in writes):
                return
            for write in writes:
                write.exception()
            self._regions.popleft()
            wait = False

    def clear(self) -> None:
        """After an error: nothing of it is used any more, but writes under way come to their end."""
        for region in self._regions:
            for write in region.writes:
                write.exception()
        self._regions.clear()
        self._head = 0
