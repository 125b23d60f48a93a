"""Answers that take a while: one JSON object, or server-sent events; given up as soon as the client leaves.

Knows nothing of what is answered. Work runs beside a watch on the connection, so a client that goes away cancels it at
once, not only when the next token would be sent.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from muster.api.errors import InternalError, error_body
from muster.api.gate import log_unexpected
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
    """Sends each chunk as a server-sent event, then `[DONE]`.

    The status is sent with the first chunk, so a request that fails before it gets a proper error status. A later
    error becomes an event `{"error": ...}`, and then no `[DONE]` follows.
    """

    media_type = "text/event-stream"

    def __init__(self, visit: Visit, chunks: AsyncGenerator[Json, None]) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._visit = visit
        self._chunks = chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._chunks):
            self._visit.left = not await while_connected(receive, self._send_all(send))

    async def _send_all(self, send: Send) -> None:
        first = await anext(self._chunks)
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            await _send_event(send, json.dumps(first))
            async for chunk in self._chunks:
                await _send_event(send, json.dumps(chunk))
            await _send_event(send, "[DONE]")
        except MusterError as error:
            await self._send_error(send, error)
        except Exception as error:
            log_unexpected(self._visit, error)
            await self._send_error(send, InternalError(self._visit.id))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_error(self, send: Send, error: MusterError) -> None:
        self._visit.error_code = error.code
        await _send_event(send, json.dumps(error_body(error)))


async def _send_event(send: Send, data: str) -> None:
    # json.dumps escapes all but ASCII: some clients split lines at more characters than the newline.
    await send({"type": "http.response.body", "body": f"data: {data}\n\n".encode(), "more_body": True})
