"""Where requests go: the routes of all pipelines that are ready, for whoever follows a job's. Knows no pool."""

import asyncio
from collections.abc import AsyncIterator

import structlog

from muster.broker.events import PipelineId, Route

log = structlog.get_logger()


class Routes:
    def __init__(self) -> None:
        self._routes: dict[PipelineId, Route] = {}
        self._changed = asyncio.Event()

    def change(self, pipeline: PipelineId, route: Route | None) -> None:
        """None: the pipeline is not ready any more."""
        log.info("route.changed", pipeline=str(pipeline), epoch=route.epoch if route is not None else None)
        self._routes.pop(pipeline, None)
        if route is not None:
            self._routes[pipeline] = route
        self._changed.set()
        self._changed = asyncio.Event()

    def of(self, job: str) -> tuple[Route, ...]:
        """Of the job's pipelines that are ready, the latest change last."""
        return tuple(route for id, route in self._routes.items() if id.job == job)

    async def watch(self, job: str) -> AsyncIterator[tuple[Route, ...]]:
        """The job's routes now, and again after every change; changes that were already overtaken are skipped."""
        seen: tuple[Route, ...] | None = None
        while True:
            changed, routes = self._changed, self.of(job)
            if routes != seen:
                seen = routes
                yield routes
            await changed.wait()
