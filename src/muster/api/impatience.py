"""Hangs up on clients who hold a connection and do nothing with it. Knows HTTP as uvicorn does, and no routes.

uvicorn closes an idle connection only after an answer. One that never sends the head of its request, or never reads its
answer, would stay for ever, and a process has a limited number of connections. (A slow body is the gate's matter.)
Nor may one who sends a lot at once hold up the others.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

LOOK_S = 30.0
"""A connection that stands still from one look to the next is closed."""
READ_BYTES = 4096
"""At a time. A body may come in chunks of one byte, each of which takes as long as one of thousands, and all that was
read at once is taken apart before anybody else has a turn."""


class ImpatientProtocol(H11Protocol):
    _seen: object = None
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        transport.max_size = READ_BYTES
        self._timer = self.loop.call_later(LOOK_S, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def _look(self) -> None:
        standing = self._standing()
        if standing is not None and standing == self._seen:
            self.transport.abort()
            return
        self._seen = standing
        self._timer = self.loop.call_later(LOOK_S, self._look)

    def _standing(self) -> object:
        """What the client is to go on with, None if that is ours. Equal to the last look's if nothing has happened."""
        if self.cycle is None or self.cycle.response_complete:
            return ("to ask", self.cycle)
        if self.flow.write_paused:
            return ("to read", self.transport.get_write_buffer_size())
        return None
