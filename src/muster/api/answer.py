"""Answers that take a while: one JSON object, or server-sent events; given up as soon as the client leaves.

Knows nothing of what is answered. Work runs beside a watch on the connection, so a client that goes away cancels it at
once, not only when the next token would be sent.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from muster.api.errors import InternalError
from muster.api.framing import CHUNKS, Framing
from muster.api.gate import SEND, log_unexpected
from muster.api.serving import Visit
from muster.errors import MusterError

Json = dict[str, Any]


async def while_connected(receive: Receive, work: Coroutine[Any, Any, None]) -> bool:
    """Do the work; stop it if the client leaves first. Says whether it was done."""
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_client_left(receive))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            return False
        task.result()
        return True
    finally:
        for each in (task, watch):
            each.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def _client_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def with_counts(visit: Visit, chunks: AsyncGenerator[Json, None]) -> AsyncGenerator[Json, None]:
    """Each chunk with what was counted so far."""
    async with aclosing(chunks):
        async for chunk in chunks:
            yield {**chunk, "usage": visit.usage()}


class JsonAnswer(Response):
    """Sends what `produce` returns. Errors fly to the error handlers: nothing was sent yet."""

    def __init__(self, visit: Visit, produce: Callable[[], Awaitable[Json]]) -> None:
        super().__init__()
        self._visit = visit
        self._produce = produce

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def work() -> None:
            await JSONResponse(await self._produce())(scope, receive, send)

        self._visit.left = not await while_connected(receive, work())


class EventStream(Response):
    """Sends each chunk as it comes, framed as the API has it; a comment, which clients skip, into every long silence.

    The status is sent with the first of them, so a request that fails before it gets a proper error status. A later
    error becomes the last chunk, and then no end mark follows.
    """

    def __init__(
        self, visit: Visit, chunks: AsyncGenerator[Json, None], silence_s: float, framing: Framing = CHUNKS
    ) -> None:
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(headers=headers, media_type=framing.media_type)
        self._framing = framing
        del self.headers["content-length"]
        self._visit = visit
        self._chunks = chunks
        self._silence_s = silence_s
        self._begun = False
        self._spoke_s = 0.0
        self._loop = asyncio.get_running_loop()
        self._send_on: Send | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._send_on = scope["state"].get(SEND, send)
        async with aclosing(self._chunks):
            self._visit.left = not await while_connected(receive, self._send_all(send))

    async def _send_all(self, send: Send) -> None:
        self._spoke_s = self._loop.time()
        breath = asyncio.create_task(self._break_silences(send)) if self._framing.silence else None
        try:
            async for chunk in self._chunks:
                await self._send(send, self._framing.frame(chunk))
            if self._framing.end:
                await self._send(send, self._framing.end)
        except Exception as error:
            if not self._begun:
                raise
            await self._send_error(send, error)
        finally:
            if breath is not None:
                breath.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _break_silences(self, send: Send) -> None:
        while True:
            await asyncio.sleep(self._spoke_s + self._silence_s - self._loop.time())
            if self._loop.time() >= self._spoke_s + self._silence_s:
                await self._send(send, self._framing.silence)

    async def _send_error(self, send: Send, error: Exception) -> None:
        if not isinstance(error, MusterError):
            log_unexpected(self._visit, error)
            error = InternalError(self._visit.id)
        self._visit.error_code = error.code
        await self._send(send, self._framing.frame(self._framing.error(error, self._visit.id)))

    async def _send(self, send: Send, piece: bytes) -> None:
        self._spoke_s = self._loop.time()
        if not self._begun:
            self._begun = True
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        # What stands between here and the server only looks at the start, and costs as much as making a piece.
        await (self._send_on or send)({"type": "http.response.body", "body": piece, "more_body": True})
