"""An HTTP server inside a running asyncio loop. Knows sockets and uvicorn, no routes.

async with ApiServer(app, "127.0.0.1", 8000) as server:
    print(server.url)
"""

import asyncio
import contextlib
import socket
from collections.abc import Generator
from types import TracebackType
from typing import Self

from starlette.types import ASGIApp
from uvicorn import Config, Server

from muster.api.impatience import ImpatientProtocol
from muster.api.listen import listen

_GRACE_S = 1
"""For answers that are under way when the server stops."""


class _EmbeddedServer(Server):
    """Leaves signals to the program that it is part of."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


class ApiServer:
    def __init__(self, app: ASGIApp, host: str = "127.0.0.1", port: int = 8000) -> None:
        """`port` 0 lets the system choose."""
        self._app = app
        self._host = host.strip("[]")
        self._wanted_port = port
        self.port = port
        """The port that is listened on, once started."""
        self._server: _EmbeddedServer | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        return f"http://{f'[{self._host}]' if ':' in self._host else self._host}:{self.port}"

    async def start(self) -> None:
        """Listen; return when requests are answered. Raises `MachineTrouble`, for example if the port is taken."""
        listener = listen(self._host, self._wanted_port)
        self.port = listener.getsockname()[1]
        config = Config(
            self._app,
            http=ImpatientProtocol,
            log_config=None,
            log_level="critical",  # it would write past our own log
            access_log=False,
            server_header=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=_GRACE_S,
        )
        self._server = _EmbeddedServer(config)
        self._task = asyncio.create_task(self._serve(self._server, listener), name="api-server")
        while not self._server.started and not self._task.done():
            await asyncio.sleep(0.005)
        if self._task.done():
            await self._task

    async def stop(self) -> None:
        """Answer what is being answered, for a few seconds, then close."""
        if self._server is not None and self._task is not None:
            self._server.should_exit = True
            await self._task

    async def wait(self) -> None:
        """Until the server stops."""
        if self._task is not None:
            await asyncio.shield(self._task)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @staticmethod
    async def _serve(server: Server, listener: socket.socket) -> None:
        try:
            await server.serve(sockets=[listener])
        finally:
            listener.close()
