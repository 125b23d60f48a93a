"""A link that breaks for a moment loses nothing; one that stays broken, or breaks again and again, is told."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from muster.errors import LinkDown, MusterError
from muster.node import hop
from muster.node.hop import MAX_MENDS, NextHop
from muster.wire.frame import Payload
from muster.wire.messages.every import AnyMessage
from muster.wire.messages.generate import StepDone


class Wire:
    """A channel that works until somebody breaks it."""

    def __init__(self) -> None:
        self.got: list[int] = []
        self.broken = asyncio.Event()

    async def send(self, message: AnyMessage, payload: Payload = b"") -> None:
        if self.broken.is_set():
            raise LinkDown("the link is down")
        assert isinstance(message, StepDone)
        self.got.append(message.sequence)

    async def receive(self) -> tuple[AnyMessage, Payload]:
        await self.broken.wait()
        raise LinkDown("the link is down")

    async def close(self) -> None: ...


class Dialling:
    """Gives one wire after the other, while `works`."""

    def __init__(self) -> None:
        self.wires: list[Wire] = []
        self.works = True

    async def __call__(self) -> Any:
        if not self.works:
            raise LinkDown("nobody answers")
        self.wires.append(Wire())
        return self.wires[-1]


def message(number: int) -> StepDone:
    return StepDone(epoch=1, sequence=number, sampled=())


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 20))


async def until(condition: Any) -> None:
    while not condition():
        await asyncio.sleep(0.001)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hop, "PATIENCE_S", 0.2)
    monkeypatch.setattr(hop, "PAUSE_S", 0.01)


def test_what_is_kept_is_said_again_before_all_else_when_the_link_is_back() -> None:
    async def body() -> None:
        dialling, lost = Dialling(), list[MusterError]()
        way = NextHop(dialling, lost.append, lambda: [(message(1), b""), (message(2), b"")])
        await way.open()
        way.send(message(1))
        await until(lambda: dialling.wires[0].got == [1])
        dialling.works = False
        dialling.wires[0].broken.set()
        await asyncio.sleep(0.02)
        way.send(message(2))
        dialling.works = True
        await until(lambda: len(dialling.wires) == 2 and dialling.wires[1].got == [1, 2])
        way.send(message(3))
        await until(lambda: dialling.wires[1].got == [1, 2, 3])
        assert not lost
        await way.close()

    run(body())


@pytest.mark.parametrize("again", [None, lambda: None, list], ids=["nothing is kept", "some is gone", "no answer"])
def test_a_link_that_cannot_be_gone_on_with_is_lost_once(again: Any) -> None:
    async def body() -> None:
        dialling, lost = Dialling(), list[MusterError]()
        way = NextHop(dialling, lost.append, again)
        await way.open()
        dialling.works = again is not None and again() is None
        dialling.wires[0].broken.set()
        await until(lambda: lost)
        way.send(message(1))
        await asyncio.sleep(0.05)
        assert len(lost) == 1
        await way.close()

    run(body())


def test_a_link_that_breaks_again_and_again_is_lost() -> None:
    async def body() -> None:
        dialling, lost = Dialling(), list[MusterError]()
        way = NextHop(dialling, lost.append, list)
        await way.open()
        for broken in range(MAX_MENDS + 1):
            await until(lambda broken=broken: len(dialling.wires) == broken + 1)
            dialling.wires[-1].broken.set()
        await until(lambda: lost)
        await way.close()

    run(body())
