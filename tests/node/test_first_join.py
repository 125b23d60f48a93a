"""A machine that starts before its head: it goes on dialling, says so once, and leaves when it is told to."""

import asyncio
from pathlib import Path

import pytest

from muster.errors import LinkDown
from muster.link.memory import MemoryNetwork
from muster.node.lending import WorkerOptions
from muster.node.worker import HeadDoor, Worker
from muster.spec.pool import Device
from muster.wire.messages.base import Address
from muster.wire.messages.membership import Hello

HEAD, NODE = "aa" * 32, "bb" * 32


def a_worker(network: MemoryNetwork, folder: Path, said: list[str], once: bool = False) -> Worker:
    door = HeadDoor(Address(node=HEAD, direct=("memory",)), lambda node: b"proof")
    options = WorkerOptions("ada", folder, once=once)
    device = Device("cpu", "made up", 10**9, {"float32": 1e9}, 1e9, 1e9, 1e9)
    return Worker(
        network.endpoint(NODE),
        door,
        options,
        lambda event, sentence, **facts: said.append(event),
        measure=lambda options: device,
    )


def test_it_dials_until_the_head_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("muster.node.worker.FIRST_REJOIN_S", 0.02)

    async def scene() -> object:
        network, said = MemoryNetwork(), list[str]()
        worker = a_worker(network, tmp_path, said)
        running = asyncio.create_task(worker.run())
        while "head_missing" not in said:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        assert said == ["measuring", "measured", "head_missing"]
        head = network.endpoint(HEAD)
        _, control = await (await asyncio.wait_for(head.accept(), 10)).accept()
        hello, _ = await control.receive()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return hello

    assert isinstance(asyncio.run(scene()), Hello)


def test_it_can_be_told_to_leave_while_it_dials(tmp_path: Path) -> None:
    async def scene() -> None:
        said: list[str] = []
        worker = a_worker(MemoryNetwork(), tmp_path, said)
        running = asyncio.create_task(worker.run())
        while "head_missing" not in said:
            await asyncio.sleep(0.01)
        worker.drain()
        await asyncio.wait_for(running, 1.0)

    asyncio.run(scene())


def test_a_script_may_ask_it_to_dial_once(tmp_path: Path) -> None:
    with pytest.raises(LinkDown, match="check that it runs"):
        asyncio.run(a_worker(MemoryNetwork(), tmp_path, [], once=True).run())
