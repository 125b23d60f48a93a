"""A head and its workers as child processes of this one: real sockets, real memory caps, `kill -9` and all.

Each child is the `muster` command with `--json`; what it says on stdout are the events that this file reads. Knows
nothing of prompts or of what the events mean beyond their names.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from muster.errors import MachineTrouble, PoolUnavailable

Event = dict[str, Any]
STOP_PATIENCE_S = 10.0
LOG_TAIL_LINES = 15


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """How one worker differs from the others."""

    name: str
    region: str
    memory_bytes: int
    """For layers: what the program takes is not counted, or these machines could not be as small as they are."""
    speed: float = 1.0


@dataclass(slots=True)
class Child:
    """One running `muster` process and everything it has said."""

    name: str
    process: asyncio.subprocess.Process
    log: Path
    events: list[Event] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    reader: "asyncio.Task[None] | None" = None
    killed: bool = False
    closed: bool = False
    """Its stdout has ended: nothing more will be said."""

    @property
    def alive(self) -> bool:
        return self.process.returncode is None

    async def wait_for(self, what: str, matches: Callable[[Event], bool], timeout_s: float, since: int = 0) -> Event:
        """The first event from position `since` on that matches. Says what the child said last if none comes."""
        try:
            async with asyncio.timeout(timeout_s), self.changed:
                while True:
                    if found := next((event for event in self.events[since:] if matches(event)), None):
                        return found
                    if self.closed:
                        break
                    await self.changed.wait()
        except TimeoutError:
            pass
        raise PoolUnavailable(
            f"{self.name} did not report {what} within {timeout_s:.0f} s; it said:\n{self.last_words()}"
        )

    async def follow(self) -> AsyncIterator[Event]:
        """Every event, from the first on, until the child closes its stdout."""
        seen = 0
        while True:
            async with self.changed:
                while seen == len(self.events) and not self.closed:
                    await self.changed.wait()
                fresh, seen = self.events[seen:], len(self.events)
            if not fresh:
                return
            for event in fresh:
                yield event

    def last_words(self) -> str:
        """The end of its log; errors are there."""
        log = self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""
        said = [json.dumps(event) for event in self.events[-3:]]
        return "\n".join([*log.splitlines()[-LOG_TAIL_LINES:], *said])

    async def read(self) -> None:
        """Collect events until the child closes its stdout."""
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            with contextlib.suppress(json.JSONDecodeError):
                event = json.loads(line)
                async with self.changed:
                    self.events.append(event)
                    self.changed.notify_all()
        await self.process.wait()
        async with self.changed:
            self.closed = True
            self.changed.notify_all()

    def kill(self) -> None:
        """As a power cut would: no goodbye, no cleaning up."""
        self.killed = True
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()

    async def stop(self) -> None:
        """Ask politely, ask again (a worker drains first, and a second Ctrl-C ends that), then insist."""
        for patience_s in (0.5, STOP_PATIENCE_S):
            if self.alive:
                with contextlib.suppress(ProcessLookupError):
                    self.process.send_signal(signal.SIGINT)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.process.wait(), patience_s)
        if self.alive:
            self.kill()
        if self.reader is not None:
            await self.reader


class Lab:
    """Starts children and sees to it that none outlives the block.

    async with Lab(folder) as lab:
        head = await lab.head("tiny")
        await lab.worker(WorkerSpec("ada", "oslo", 64_000_000), ticket)
    """

    def __init__(self, folder: Path, scenario: str | None = None, threads: int = 1) -> None:
        self.folder = folder
        self.scenario = scenario
        self.children: list[Child] = []
        self._threads = threads
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Lab":
        return self

    async def __aexit__(self, *_: object) -> None:
        # Workers first: a head that leaves first would set them to look for it.
        for child in reversed(self.children):
            await child.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def background(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` until the block ends."""
        self._tasks.append(asyncio.create_task(work))

    async def head(self, model: str, *options: str, region: str = "home", codec: str = "raw") -> Child:
        """Links stay raw unless told otherwise: answers are compared token by token here. All machines are trusted:
        they share one processor, so none would show the speed that it claims. And there is one pipeline, unless
        options say more, for whoever looks at its stages."""
        words = ["serve", model, "--port", "0", "--no-local-worker", "--region", region, "--codec", codec]
        words += ["--trust", "all"]
        words += [] if {"--plan", "--pipelines"} & set(options) else ["--pipelines", "1"]
        return await self.start("head", [*words, *self._shaped(), *options])

    async def worker(self, spec: WorkerSpec, ticket: str) -> Child:
        words = ["join", ticket, "--name", spec.name, "--region", spec.region, "--device", "cpu"]
        words += ["--layer-memory", str(spec.memory_bytes), "--speed", str(spec.speed)]
        return await self.start(spec.name, [*words, *self._shaped()])

    def command(self, name: str) -> list[str]:
        """What is run in the process of this name, before its words."""
        return [sys.executable, "-m", "muster.cli.main"]

    async def start(self, name: str, words: Sequence[str]) -> Child:
        home = self.data_dir(name)
        log = home / "log.txt"
        command = [*self.command(name), *words, "--data-dir", str(home), "--json"]
        with log.open("wb") as errors:
            try:
                process = await asyncio.create_subprocess_exec(
                    *command,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=errors,
                    env=self._environment(),
                    limit=1 << 20,  # an event may list many nodes on one line
                    start_new_session=True,  # Ctrl-C is for us; we stop the children in order
                )
            except OSError as error:
                raise MachineTrouble(
                    f"Cannot start another process ({error.strerror}); close some programs."
                ) from error
        child = Child(name, process, log)
        child.reader = asyncio.create_task(child.read())
        self.children.append(child)
        return child

    def data_dir(self, name: str) -> Path:
        home = self.folder / name
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        return home

    def _shaped(self) -> list[str]:
        return ["--scenario", self.scenario] if self.scenario else []

    def _environment(self) -> dict[str, str]:
        """Several children share the cores: each computes on few threads."""
        count = str(self._threads)
        quiet = {"TOKENIZERS_PARALLELISM": "false"}
        return os.environ | {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count} | quiet
