"""`muster` whose door takes pipelines in turns, or knows nothing of what they have cached: for comparisons.

python -m benchmarks.pipelines_head DOOR serve MODEL ...        DOOR: chooses (as always), turns or blind
"""

import sys
from itertools import count
from typing import Any

from muster.cli.main import main
from muster.client.open_route import OpenRoute
from muster.client.routing import Routing

DOORS = ("chooses", "turns", "blind")


def change(door: str) -> None:
    """From now on every door in this process is like this."""
    if door == "turns":
        turn = count()

        def choose(self: Routing, request: Any) -> OpenRoute | None:
            routes = [route for _, route in sorted(self.routes.items())]
            return routes[next(turn) % len(routes)] if routes else None

        Routing.choose = choose  # type: ignore[method-assign]
        Routing.sooner = lambda self, request, at, owed: None  # type: ignore[method-assign]
    if door == "blind":
        OpenRoute._cached = lambda self, digests: 0  # type: ignore[method-assign]


if __name__ == "__main__":
    change(sys.argv.pop(1))
    main()
