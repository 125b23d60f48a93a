"""Serves the channels that a peer opens, a few at a time. Knows nothing of what is said on them."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from muster.errors import LinkDown
from muster.link.base import Channel, Connection
from muster.link.tasks import Tasks

Serve = Callable[[str, Channel], Coroutine[Any, Any, None]]
"""(name, channel) -> the work of serving it. Expected to end with the channel, and to close it."""


async def serve_channels(
    connection: Connection, serve: Serve, tasks: Tasks, max_channels: int
) -> set["asyncio.Task[None]"]:
    """Until the connection ends; returns the tasks that are still at work then.

    A channel beyond `max_channels` is closed at once: each may hold a frame that is being received.
    """
    serving: set[asyncio.Task[None]] = set()
    try:
        while True:
            name, channel = await connection.accept()
            serving = {task for task in serving if not task.done()}
            if len(serving) < max_channels:
                serving.add(tasks.spawn(serve(name, channel)))
            else:
                await channel.close()
    except LinkDown:
        return serving
