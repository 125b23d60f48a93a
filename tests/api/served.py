"""The application on a real socket, its loop in a thread, and clients for it."""

import asyncio
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import httpx
from openai import OpenAI

from muster.api.app import create_app
from muster.api.server import ApiServer
from muster.api.serving import ServingOptions
from muster.metrics import Metrics
from tests.api.fake_backend import FakeBackend


class Served:
    """`with Served(backend) as served: served.client().models.list()`"""

    def __init__(self, backend: FakeBackend, options: ServingOptions | None = None, **parts: Any) -> None:
        self.backend = backend
        self.metrics = Metrics()
        app = create_app(backend, backend.tokenizer, metrics=self.metrics, options=options, **parts)
        self._server = ApiServer(app, port=0)
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.run(self._server.start())
        self.http = httpx.Client(base_url=self._server.url, timeout=20)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.http.close()
        self.run(self._server.stop())
        self.run(self.loop.shutdown_default_executor())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(20)

    @property
    def url(self) -> str:
        return self._server.url

    def client(self, key: str = "unused", **options: Any) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=20, **options)


def eventually(condition: Callable[[], bool], within_s: float = 5.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return condition()
