"""What `muster lab demo` shows: a pool on the hosts of a lab, streams that never stop, and faults by schedule.

Knows processes, streams and faults; knows nothing of terminals: whoever looks reads `Scene`, which only grows.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx

from muster.errors import MusterError
from muster.lab.faults import play_all
from muster.lab.hosted import HostedLab, wide_area
from muster.lab.processes import Child, Event, Lab, WorkerSpec
from muster.lab.rehearsal import BOOT_S, PLACED_S, gather, is_event
from muster.lab.streams import Prompt, Stream, client_of, run_all
from muster.lab.wan.control import Report, ask
from muster.lab.wan.record import LabRecord, folder_of
from muster.lab.wan.world import LabWorld
from muster.spec.faults import LabFault
from muster.spec.scenario import Scenario

HEAD = "head"
MAX_TOKENS = 96
RATE_S = 3.0
"""Tokens per second are those of so many seconds."""


@dataclass(frozen=True, slots=True)
class Show:
    """What is asked for. Faults are timed from the moment at which the pool serves."""

    model: str
    scenario: Scenario
    workers: tuple[WorkerSpec, ...]
    prompts: tuple[Prompt, ...]
    head_region: str
    faults: tuple[LabFault[str], ...]
    seconds: float
    name: str
    network: str
    dtype: str = "float32"

    def hosts(self) -> list[str]:
        return [f"{HEAD}:{self.head_region}", *(f"{worker.name}:{worker.region}" for worker in self.workers)]


@dataclass(slots=True)
class Scene:
    """What has happened so far."""

    told: list[tuple[float, str]] = field(default_factory=list)
    """Seconds since the beginning, and a sentence."""
    ring: list[Event] = field(default_factory=list)
    mbit_per_s: dict[tuple[str, str], float] = field(default_factory=dict)
    """Now, between two hosts."""
    rates: list[float] = field(default_factory=list)
    """Tokens per second, one for each second that the pool served."""
    tokens: int = 0
    requests: int = 0
    failed: list[str] = field(default_factory=list)
    longest_silence_s: float = 0.0
    router_latest_s: float = 0.0

    def record(self, seconds: float) -> dict[str, Any]:
        return {
            "tokens": self.tokens,
            "tokens_per_s": round(self.tokens / seconds, 2),
            "tokens_per_s_by_second": [round(rate, 1) for rate in self.rates],
            "requests": self.requests,
            "requests_failed": len(self.failed),
            "errors": self.failed,
            "longest_silence_s": round(self.longest_silence_s, 2),
            "router_latest_ms": round(1000 * self.router_latest_s, 2),
            "told": [[round(at_s, 1), said] for at_s, said in self.told],
        }


Watch = Callable[[Scene], None]


def spread(workers: Sequence[WorkerSpec], scenario: Scenario) -> tuple[WorkerSpec, ...]:
    """The workers, over the scenario's regions in turn."""
    return tuple(
        replace(worker, region=region) for worker, region in zip(workers, cycle(scenario.regions), strict=False)
    )


async def perform(show: Show, folder: Path, watch: Watch) -> Scene:
    """Raises `MusterError` if the lab or the pool never comes up; a stream that fails later is counted."""
    stage = _Stage(show, folder, watch)
    with wide_area(show.scenario, show.hosts(), beside=HEAD, name=show.name, network=show.network) as record:
        async with HostedLab(folder, record) as lab:
            await stage.perform(lab, record)
    return stage.scene


class _Stage:
    def __init__(self, show: Show, folder: Path, watch: Watch) -> None:
        self.scene = Scene()
        self._show, self._watch = show, watch
        self._began_s = time.monotonic()
        self._arrived: deque[float] = deque()

    async def perform(self, lab: Lab, record: LabRecord) -> None:
        show = self._show
        self._say(f"{len(show.workers) + 1} hosts are up, with links as {show.scenario.name} says; the head starts")
        head, _ = await gather(lab, show, self._follow, self._say)
        url = (await head.wait_for("its address", is_event("listening"), BOOT_S))["url"]
        placed = await head.wait_for("a ring", is_event("placed"), PLACED_S)
        self.scene.ring = placed["stages"]
        lab.background(self._measure(record))
        async with client_of(url) as client:
            streams = [asyncio.create_task(self._stream(client, prompt)) for prompt in self._show.prompts]
            lab.background(self._befall(record))
            await asyncio.sleep(self._show.seconds)
            for each in streams:
                each.cancel()
            await asyncio.gather(*streams, return_exceptions=True)

    async def _follow(self, head: Child) -> None:
        async for event in head.follow():
            match event.get("event"):
                case "joined":
                    self._say(f"the head: {event['name']} joined from {event['region']}")
                case "left":
                    self._say(f"the head: {event['name']} is gone")
                case "waiting":
                    self._say("the head: " + event["reason"].partition("; ")[0].rstrip("."))
                case "placed":
                    self.scene.ring = event["stages"]
                    self._say("the head: serving by " + ", ".join(stage["name"] for stage in event["stages"]))

    async def _befall(self, record: LabRecord) -> None:
        try:
            await play_all(self._show.faults, LabWorld(record, lambda sentence: self._say(f"fault: {sentence}")))
        except MusterError as error:
            self._say(f"fault: {error}")

    async def _stream(self, client: httpx.AsyncClient, prompt: Prompt) -> None:
        """One request after another, until cancelled."""
        while True:
            seen = 0

            def moved(streams: list[Stream]) -> None:
                nonlocal seen
                fresh = len(streams[0].arrivals) - seen
                seen += fresh
                self.scene.tokens += fresh
                self._arrived.extend([time.monotonic()] * fresh)

            (stream,), _ = await run_all(client, self._show.model, [prompt], MAX_TOKENS, moved)
            self.scene.requests += 1
            self.scene.longest_silence_s = max(self.scene.longest_silence_s, stream.longest_silence_s)
            if stream.failed:
                self.scene.failed.append(stream.error or "no end")
                await asyncio.sleep(1.0)

    async def _measure(self, record: LabRecord) -> None:
        """Rates, once a second."""
        before: dict[tuple[str, str], int] = {}
        while True:
            await asyncio.sleep(1.0)
            said = await asyncio.to_thread(ask, folder_of(record.name), Report())
            now = {(way.source, way.target): way.passed_bytes for way in said.directions}
            self.scene.mbit_per_s = {pair: 8 * (count - before.get(pair, 0)) / 1e6 for pair, count in now.items()}
            self.scene.router_latest_s, before = said.latest_s, now
            while self._arrived and self._arrived[0] < time.monotonic() - RATE_S:
                self._arrived.popleft()
            self.scene.rates.append(len(self._arrived) / RATE_S)
            self._watch(self.scene)

    def _say(self, sentence: str) -> None:
        self.scene.told.append((time.monotonic() - self._began_s, sentence))
        self._watch(self.scene)
