"""The one thread in which a runner computes, so that what it touches there needs no locks. Knows no kind of work.

It keeps the time, and makes a slower machine of this one where its owner wants to rehearse that.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from muster.node.measure import own_clock
from muster.node.runners.base import RunnerVitals

Result = TypeVar("Result")


def slowed(work: Callable[[], Result], speed: float) -> Result:
    """Do `work`, and with `speed` below 1 go on sleeping until a machine so slow would be done.

    What others on this machine take from the processor does not count, as long as they leave enough of it: so several
    slow machines can be rehearsed on one, each as fast as it says.
    """
    clock = own_clock()
    began_s, own_began_s = time.perf_counter(), clock()
    result = work()
    if speed < 1:
        rest_s = (clock() - own_began_s) / speed - (time.perf_counter() - began_s)
        time.sleep(max(0.0, rest_s))
    return result


class ComputeThread:
    def __init__(self, epoch: int, speed: Callable[[], float]) -> None:
        """`speed` is asked before every step."""
        self._speed = speed
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"stage-{epoch}")
        self._steps = 0
        self._busy_s = 0.0
        self._began_s = 0.0
        self._ends: Future[Any] | None = None

    async def compute(self, work: Callable[[], Result]) -> Result:
        """Run `work` in the thread, at the speed that this machine lends. One at a time."""
        self._began_s = time.perf_counter()
        future = self._thread.submit(slowed, work, self._speed())
        self._ends = future
        result = await asyncio.wrap_future(future)
        self._busy_s += time.perf_counter() - self._began_s
        self._steps += 1
        return result

    def vitals(self, active_requests: int = 0, received: int = 0, sent: int = 0, in_flight: int = 0) -> RunnerVitals:
        between_steps = self._ends is None or self._ends.done()
        computing_s = 0.0 if between_steps else time.perf_counter() - self._began_s
        return RunnerVitals(
            active_requests, self._steps, computing_s, self._busy_s, received, sent, in_flight=in_flight
        )

    async def close(self) -> None:
        """Returns when the last work is done. A hung one never is."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        if self._ends is not None:
            await asyncio.gather(asyncio.wrap_future(self._ends), return_exceptions=True)
