"""Searches for better plans beside the event loop: streams go on meanwhile, and none takes long. Knows no search."""

import asyncio
import time
from threading import Event

import structlog

from muster.broker.events import PlanFound, Search
from muster.broker.pipelines.job import SearchPlan
from muster.errors import PoolUnavailable
from muster.spec.model_shape import ModelShape

log = structlog.get_logger()
MAX_S = 5.0
"""A search shares the processor with whoever serves requests here."""


class Searching:
    def __init__(self, search: SearchPlan) -> None:
        self._search = search
        self._closing = Event()

    async def run(self, shape: ModelShape, wanted: Search) -> PlanFound:
        """In a thread. A search that fails has found nothing, and is no reason to stop serving."""
        deadline_s = time.monotonic() + MAX_S

        def out_of_time() -> bool:
            return self._closing.is_set() or time.monotonic() > deadline_s

        try:
            plan = await asyncio.to_thread(self._search, shape, wanted.pool, wanted.options, out_of_time)
            return PlanFound(wanted.pipeline, plan)
        except PoolUnavailable as error:
            log.info("search.found_nothing", reason=str(error))
        except Exception as error:
            log.error("search.broke", exc_info=error)
        return PlanFound(wanted.pipeline, None)

    def close(self) -> None:
        """A search under way comes to an end."""
        self._closing.set()
