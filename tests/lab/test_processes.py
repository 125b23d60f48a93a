"""Child processes: what they say is heard, what they do not say is explained, and none outlives its block."""

import signal
from pathlib import Path

import anyio
import pytest

from muster.errors import PoolUnavailable
from muster.lab.processes import Child, Lab


def run_child(folder: Path, *words: str) -> Child:
    async def scene() -> Child:
        async with Lab(folder) as lab:
            child = await lab.start("child", words)
            await child.wait_for("anything", lambda event: True, 60)
            await child.process.wait()
        return child

    return anyio.run(scene)


def test_what_a_child_says_is_heard(tmp_path: Path) -> None:
    child = run_child(tmp_path, "status", "--head", "http://127.0.0.1:9")
    assert child.events[0]["error"]["code"] == "link_down"
    assert not child.alive
    assert child.process.returncode == 5


def test_a_child_that_ends_before_it_said_what_was_awaited_is_quoted_at_once(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Lab(tmp_path) as lab:
            child = await lab.start("child", ["nonsense"])
            await child.wait_for("its ticket", lambda event: "ticket" in event, 60)

    with pytest.raises(PoolUnavailable, match=r"(?s)child did not report its ticket.*No such command"):
        anyio.run(scene)


def test_a_killed_child_is_gone_without_a_word(tmp_path: Path) -> None:
    async def scene() -> Child:
        async with Lab(tmp_path) as lab:
            child = await lab.start("child", ["chat"])
            assert child.alive
            child.kill()
            await child.process.wait()
            assert child.killed
        return child

    assert anyio.run(scene).process.returncode == -signal.SIGKILL
