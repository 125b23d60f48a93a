"""Many streams at once through a pool that is being disturbed, and what they should have been. Knows no faults."""

import asyncio
import os
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.exactness import load, sampled, serve
from benchmarks.workload import mixed_requests
from muster.spec.request import Request
from tests.flows.live_pool import LivePool

Tokens = dict[str, list[int]]
NUM_STREAMS, NUM_TOKENS = (16, 60) if "CHAOS_SEEDS" in os.environ else (8, 36)
"""`make chaos` has time for more."""


def requests(vocab_size: int, count: int = NUM_STREAMS, tokens: int = NUM_TOKENS) -> list[Request]:
    """Half of them greedy, half of them sampled in every way that there is."""
    greedy = mixed_requests(count, 3, 60, tokens, vocab_size)
    return [one if i % 2 else two for i, (one, two) in enumerate(zip(greedy, sampled(greedy), strict=True))]


def undisturbed(model: Path, num_layers: int, wanted: Sequence[Request]) -> Tokens:
    """What one stage says that nobody disturbs."""
    return serve(load(model, num_layers, 1), wanted)


class Streams:
    """Requests under way. `with` nothing: every stream ends by itself, or the test fails."""

    def __init__(self, pool: LivePool, wanted: Sequence[Request], name: str = "") -> None:
        self._pool = pool
        self._wanted = [replace(one, id=f"{name}{one.id}") for one in wanted]
        self.tokens: Tokens = {one.id: [] for one in self._wanted}
        self.arrivals: list[float] = []
        self._done: Future[Any] = asyncio.run_coroutine_threadsafe(self._all(), pool._loop)

    async def _all(self) -> None:
        await asyncio.gather(*map(self._one, self._wanted))

    async def _one(self, request: Request) -> None:
        finish = None
        async for progress in self._pool.sessions.generate(request):
            assert finish is None, "something came after the end"
            assert progress.index == len(self.tokens[request.id]), "a token was lost or repeated"
            self.tokens[request.id] += [token.token for token in progress.tokens]
            self.arrivals.append(time.monotonic())
            finish = progress.finish
        assert finish == "length"

    @property
    def share(self) -> float:
        """Of all tokens, how many have arrived."""
        wanted = sum(one.sampling.max_tokens for one in self._wanted)
        return sum(map(len, self.tokens.values())) / wanted

    @property
    def longest_silence_s(self) -> float:
        """During which none of the streams moved."""
        pairs = zip(self.arrivals, self.arrivals[1:], strict=False)
        return max(later - earlier for earlier, later in pairs)

    def until(self, share: float) -> None:
        """Wait until so much has arrived."""
        deadline = time.monotonic() + 60
        while self.share < share:
            if self._done.done():
                self._done.result()
            assert time.monotonic() < deadline, f"{self.share:.0%} after a minute; {self._pool.describe()}"
            time.sleep(0.002)

    def result(self, seconds: float = 60.0) -> list[list[int]]:
        """Every stream's tokens, in the order of the requests."""
        try:
            self._done.result(seconds)
        except TimeoutError:
            raise AssertionError(f"streams hang at {self.share:.0%}; {self._pool.describe()}") from None
        return list(self.tokens.values())
