"""The API's view of the pool: sessions generate, the broker tells its state. Knows no HTTP."""

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from muster.broker.service import BrokerService
from muster.client.session import Sessions
from muster.head.model import LoadedModel
from muster.spec.request import Progress, Request


class PoolBackend:
    """Implements `api/backend`. `service` gives the broker that runs now."""

    def __init__(self, job: str, model: LoadedModel, sessions: Sessions, service: Callable[[], BrokerService]) -> None:
        self._job, self._model, self._sessions, self._service = job, model, sessions, service

    @property
    def model(self) -> str:
        return self._model.shape.name

    @property
    def vocab_size(self) -> int:
        return self._model.shape.vocab_size

    @property
    def max_context(self) -> int:
        """Of the pipeline that serves; the model's own while none does. Asked with every request, so it is quick."""
        return self._service().max_context(self._job) or self._model.shape.max_context

    def generate(self, request: Request) -> AsyncIterator[Progress]:
        return self._sessions.generate(request)

    def status(self) -> Mapping[str, Any]:
        status, state = self._service().status(), self._sessions.state
        pipelines = {one["pipeline"]: _figures(one) for job in status["jobs"] for one in job["pipelines"]}
        counts = {"resubmissions": state.resubmissions, "failovers": state.failovers}
        ready = sum(one["ready"] for one in pipelines.values())
        return status | counts | {"pipelines": pipelines, "pipelines_ready": ready}


def _figures(pipeline: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of one pipeline, what was forecast beside what was measured."""
    forecast = pipeline["forecast"] or {}
    return {
        "ready": bool(pipeline["epoch"]),
        "stages": len(pipeline["placement"]),
        "forecast_tokens_per_s": forecast.get("tokens_per_s", 0.0),
        **pipeline["measured"],
    }
