"""To which of several pipelines a request goes, and which of them have fallen silent. Pure.

To the one that is expected to answer it first, with what is there already and with the part of its prompt that is
cached there. Interactive requests count only those that are interactive, too, since the others wait for them.
"""

from collections.abc import Iterator, Mapping, Sequence

from muster.client.open_route import OpenRoute, digests_of
from muster.spec.capacity import Capacity
from muster.spec.request import Request

STALL_TIMES = 4.0
"""A pipeline with streams at work that says nothing for so many times its longest pause has stalled."""
DOUBT_S = 30.0
"""So long nothing goes to a pipeline that has stalled, unless it is heard again."""
CLEARLY = 1.25
"""So many times sooner must a request that waits be answered elsewhere before it moves there."""
LEAST_S = 0.2
"""And by so much."""


class Routing:
    def __init__(self, stall_s: float) -> None:
        """`stall_s`: no shorter silence is a stall."""
        self._stall_s = stall_s
        self._looked_s = self._awake_s = 0.0
        self.routes: dict[int, OpenRoute] = {}

    def open(self, epoch: int, capacity: Capacity, now_s: float) -> None:
        self.routes[epoch] = OpenRoute(epoch, capacity, now_s)

    def close(self, epoch: int) -> None:
        self.routes.pop(epoch, None)

    @property
    def newest(self) -> int | None:
        return max(self.routes, default=None)

    def choose(self, request: Request) -> OpenRoute | None:
        """Where it is expected to end first; None where no pipeline is up."""
        open_ = self._trusted()
        if len(open_) < 2:
            return open_[0] if open_ else None
        sizes = {route.capacity.page_size for route in open_}
        known = {size: digests_of(request, size) for size in sizes}
        return self._soonest(open_, request, known)

    def _soonest(
        self, routes: Sequence[OpenRoute], request: Request, known: Mapping[int, Sequence[bytes]]
    ) -> OpenRoute:
        """`known` are the digests of its pages, by their size."""
        error = self._usual_error()

        def expected(route: OpenRoute) -> tuple[float, int, int]:
            digests = known.get(route.capacity.page_size, ())
            return route.expected_s(request, digests, error), route.streams, -route.epoch

        return min(routes, key=expected)

    def digests(self, request: Request, route: OpenRoute) -> Sequence[bytes]:
        """To be remembered of it, where there is a choice at all."""
        return digests_of(request, route.capacity.page_size)

    def sooner(self, request: Request, at: OpenRoute, owed: float) -> OpenRoute | None:
        """Where a request that still waits at the end of the queue at `at` would end clearly sooner, if anywhere."""
        others = [route for route in self._trusted() if route is not at]
        if not others:
            return None
        other = self._soonest(others, request, {})
        error = self._usual_error()
        here = at.speed(owed, error)
        here_s = max(here.alone_s, at.ahead_of(request) / owed / here.requests_per_s)
        there_s = other.expected_s(request, (), error)
        return other if there_s * CLEARLY + LEAST_S < here_s else None

    def stalled(self, now_s: float) -> Iterator[OpenRoute]:
        """That owe a stream its next token for too long, while others are up. Each is told once."""
        if now_s - self._looked_s > self._stall_s:  # nobody listened meanwhile
            self._awake_s = now_s
        self._looked_s = now_s
        for route in self.routes.values():
            if route.doubted_s is not None and now_s - route.doubted_s > DOUBT_S:
                route.doubted_s = None
        for route in [route for route in self.routes.values() if self._is_silent(route, now_s)]:
            if len(self._trusted()) > 1:
                route.doubted_s = now_s
                yield route

    def _is_silent(self, route: OpenRoute, now_s: float) -> bool:
        longest_s = route.longest_silence_s(self._stall_s, STALL_TIMES)
        return bool(route.begun) and route.doubted_s is None and now_s - max(route.heard_s, self._awake_s) > longest_s

    def _trusted(self) -> list[OpenRoute]:
        """Those that do not seem to have stalled; all of them where all seem to."""
        routes = list(self.routes.values())
        return [route for route in routes if route.doubted_s is None] or routes

    def _usual_error(self) -> float:
        known = [route.error for route in self.routes.values() if route.error]
        return sum(known) / len(known) if known else 1.0
