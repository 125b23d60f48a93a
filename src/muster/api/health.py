"""`GET /health` for whoever restarts or routes, `GET /metrics` for Prometheus. Neither says anything of requests."""

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from muster.api.description import HEALTH, refusals
from muster.api.serving import Serving
from muster.metrics import CONTENT_TYPE


class PrometheusText(Response):
    media_type = CONTENT_TYPE


def health_routes(serving: Serving) -> APIRouter:
    router = APIRouter()

    @router.get("/health", summary="200 when requests can be served, else 503", responses=HEALTH, response_model=None)
    async def health() -> Response:
        ready = bool(serving.backend.status().get("ready", True))
        answer = {"status": "ok" if ready else "waiting for machines", "model": serving.model}
        return JSONResponse(answer, status_code=200 if ready else 503)

    @router.get(
        "/metrics", summary="Counters and gauges for Prometheus", responses=refusals(), response_class=PrometheusText
    )
    async def metrics() -> Response:
        return PrometheusText(serving.metrics.render())

    return router
