"""Faults that happen to the hosts and links of a lab that is up. Knows what a fault takes, not when it comes.

A host that leaves is as a machine whose plug was pulled: its programs are gone and no packet comes from it. Joining, it
is there again, with the programs that ran on it started anew.
"""

import os
import signal
import subprocess
import sys
import time
from asyncio import to_thread
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from muster.lab.wan import hosts
from muster.lab.wan.control import CutHosts, HealHosts, Hear, Request, Silence, SlowHosts, ask
from muster.lab.wan.programs import started_at
from muster.lab.wan.record import HostRecord, LabRecord, folder_of

Say = Callable[[str], None]
END_S = 2.0


class LabWorld:
    """Implements `faults.MachineWorld`; machines are named as the lab's hosts."""

    def __init__(self, record: LabRecord, say: Say = lambda sentence: None) -> None:
        self._record = record
        self._say = say
        self._children: list[subprocess.Popen[bytes]] = []

    async def leave(self, node: str) -> None:
        await to_thread(self._leave, self._record.host(node))

    async def join(self, node: str) -> None:
        host = self._record.host(node)
        self._ask(Hear(host.name))
        started = await to_thread(hosts.join, self._record, host)
        self._children = [child for child in self._children if child.poll() is None] + started
        self._say(f"{node} is there again, with {len(started)} programs")

    async def freeze(self, node: str) -> None:
        host = self._record.host(node)
        await to_thread(self._release, host)
        count = await to_thread(hosts.freeze, host)
        self._say(f"{node} is frozen, with {count} processes")

    async def wake(self, node: str) -> None:
        host = self._record.host(node)
        await to_thread(self._release, host)
        await to_thread(hosts.thaw, host)
        self._say(f"{node} runs as ever")

    async def slow(self, node: str, factor: float) -> None:
        host = self._record.host(node)
        await to_thread(self._release, host)
        if factor < 1:
            await to_thread(self._brake, host, factor)
        self._say(f"{node} computes at {factor:.0%} of its speed")

    async def cut(self, one: str, other: str) -> None:
        self._ask(CutHosts(one, other))
        self._say(f"nothing passes between {one} and {other}")

    async def heal(self, one: str, other: str) -> None:
        self._ask(HealHosts(one, other))
        self._say(f"{one} and {other} reach each other as ever")

    async def slow_link(self, one: str, other: str, factor: float) -> None:
        self._ask(SlowHosts(one, other, factor))
        self._say(f"between {one} and {other} there is {factor:.0%} of the bandwidth")

    def _ask(self, request: Request) -> None:
        ask(folder_of(self._record.name), request)

    def _leave(self, host: HostRecord) -> None:
        self._ask(Silence(host.name))  # first: a dying program must not say goodbye
        self._release(host)
        count = hosts.leave(self._record, host)
        self._say(f"{host.name} is gone, with {count} processes")

    def _brake(self, host: HostRecord, factor: float) -> None:
        words = [str(host.inode), str(factor), str(self._record.keeper), self._record.keeper_started]
        subprocess.run(
            [sys.executable, "-m", "muster.lab.wan.brake", *words, str(self._brake_file(host))],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            check=True,
        )

    def _release(self, host: HostRecord) -> None:
        """End the brake on the host, whoever put it on."""
        file = self._brake_file(host)
        if not file.exists():
            return
        pid, started = file.read_text().split()
        until_s = time.monotonic() + END_S
        while started_at(int(pid)) == started and time.monotonic() < until_s:
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGTERM)
            time.sleep(0.02)
        file.unlink(missing_ok=True)

    def _brake_file(self, host: HostRecord) -> Path:
        return folder_of(self._record.name) / f"brake-{host.name}"
