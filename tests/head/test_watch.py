"""What a head tells of its pool while machines come and go."""

import asyncio
from contextlib import suppress
from typing import Any, cast

import pytest

from muster.broker.service import BrokerService
from muster.head import watch as module
from muster.head.watch import watch

ALONE = "No machine has joined yet; start one with `muster join` and the ticket."
ADA = {"id": "a", "name": "ada", "region": "oslo", "state": "standby", "doubt": ""}


class Pool:
    """Statuses in turn; the last one ends the watch."""

    def __init__(self, *statuses: tuple[list[dict[str, Any]], str]) -> None:
        self.statuses = list(statuses)

    def status(self) -> dict[str, Any]:
        if not self.statuses:
            raise asyncio.CancelledError
        nodes, reason = self.statuses.pop(0)
        return {"nodes": nodes, "reason": reason, "ready": False, "epoch": 0, "placement": [], "pins": []}


@pytest.mark.parametrize(
    ("own_comes", "told"),
    [(False, ["waiting", "joined", "waiting", "left", "waiting"]), (True, ["joined", "waiting", "left", "waiting"])],
)
def test_nobody_is_asked_for_machines_while_this_one_is_on_its_way(
    own_comes: bool, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WATCH_S", 0.0)
    events: list[str] = []
    pool = Pool(([], ALONE), ([ADA], "Machines are loading their layers."), ([], ALONE))

    async def scene() -> None:
        with suppress(asyncio.CancelledError):
            await watch(cast("BrokerService", pool), lambda event, sentence, **facts: events.append(event), own_comes)

    asyncio.run(scene())
    assert events == told


def test_what_is_not_believed_of_a_machine_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WATCH_S", 0.0)
    told: list[str] = []
    one, other = {**ADA, "doubt": "It has shown less."}, {**ADA, "doubt": "It claims more than any device has."}
    pool = Pool(*(([node], "") for node in (ADA, one, one, other, ADA)))

    async def scene() -> None:
        with suppress(asyncio.CancelledError):
            await watch(cast("BrokerService", pool), lambda event, sentence, **facts: told.append(sentence))

    asyncio.run(scene())
    assert [sentence for sentence in told if "believed" in sentence] == [
        "ada is not believed in all: It has shown less.",
        "ada is not believed in all: It claims more than any device has.",
    ]
