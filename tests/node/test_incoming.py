"""What a node's log says when the channels of its neighbours end."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from muster.errors import LinkDown, MusterError, ProtocolViolation
from muster.link.base import Channel
from muster.link.tasks import Tasks
from muster.node.incoming import Incoming
from muster.node.stages import Stages


class Ending:
    """A channel on which nothing comes but its end."""

    def __init__(self, error: MusterError) -> None:
        self.error = error

    async def receive(self) -> Any:
        raise self.error

    async def send(self, message: object, payload: object = b"") -> None: ...

    async def close(self) -> None: ...


@pytest.mark.parametrize(
    ("error", "level"),
    [
        (LinkDown("The link to node ab is down; check that the node runs."), "debug"),
        (ProtocolViolation("That is no frame."), "warning"),
    ],
)
def test_the_end_of_a_channel_is_ordinary_and_a_broken_rule_is_not(error: MusterError, level: str) -> None:
    async def scene(serve: Callable[[Incoming], Callable[[str, Channel], Any]]) -> None:
        stages = Stages("a" * 64, "b" * 64, lambda epoch, node, reason: None)
        await serve(Incoming(stages, Tasks()))("c" * 64, cast("Channel", Ending(error)))

    for serve in (lambda incoming: incoming._serve_data, lambda incoming: incoming._answer_pings):
        with capture_logs() as logs:
            asyncio.run(scene(serve))
        assert [entry["log_level"] for entry in logs] == [level]
