"""A real pool for one run: a head and its workers as processes, requests over HTTP, everything timed at the client.

What the forecast may know is taken before the first request: the pool as the head gives it (`GET /admin/pool`) and the
pipeline that it placed. Knows nothing of forecasts.
"""

import asyncio
import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from muster.cost.memory import WorkspaceOptions, stage_bytes
from muster.lab.processes import Child, Lab, WorkerSpec
from muster.lab.rehearsal import BOOT_S, PLACED_S, is_event
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Pipeline, Plan, ServeSettings, Stage
from muster.spec.pool import Pool
from muster.spec.pool_file import parse_pool

QUIET_S = 6.0
"""Between the placement and the first look at the pool: neighbours are still measuring their links."""
HEARTBEAT_S = 1.6
"""After this long, everything that was computed has been told."""
CACHE_TOKENS = 3072
"""Of each layer, that a machine has memory for."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A worker that lends just enough memory for so many layers, wherever in the model they are."""

    name: str
    region: str
    speed: float
    """Share of this machine's."""
    layers: int

    def memory_bytes(self, shape: ModelShape) -> int:
        ends = ((0, self.layers), (shape.num_layers - self.layers, shape.num_layers))
        tokens = min(shape.max_context, CACHE_TOKENS)
        return max(stage_bytes(shape, first, last, tokens, WorkspaceOptions()) for first, last in ends)


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: when it is sent, counted from the start, and what it asks for."""

    at_s: float
    prompt: tuple[int, ...]
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Answered:
    sent_s: float
    first_s: float
    last_s: float
    tokens: int
    error: str = ""


@dataclass(frozen=True, slots=True)
class Placed:
    """What is known before the first request."""

    pool: Pool
    pool_file: str
    plan: Plan
    epoch: int


@dataclass(frozen=True, slots=True)
class Worked:
    """What a machine has computed."""

    busy_s: float
    steps: int
    """Of the head of the ring also those turns in which nothing could run."""

    def since(self, before: "Worked") -> "Worked":
        return Worked(self.busy_s - before.busy_s, self.steps - before.steps)


class PlacedAnew(Exception):
    """The head found a better plan in the middle of a measurement, which says nothing then."""


@dataclass(slots=True)
class LivePool:
    """A pool that serves."""

    client: httpx.AsyncClient
    model: str
    children: Sequence[Child]
    operator: dict[str, str]
    placed: Placed = field(init=False)
    """As it was at the last look."""

    async def look(self) -> Placed:
        """The pool and the pipeline, as the head tells them to its operator now."""
        text = (await self.client.get("/admin/pool", headers=self.operator)).raise_for_status().text
        status = await _get(self.client, "/admin/status", self.operator)
        stages = tuple(Stage(stage["node"], stage["first"], stage["last"]) for stage in status["placement"])
        (ring,) = [pipeline["work"] for job in status["jobs"] for pipeline in job["pipelines"]]
        pipeline = Pipeline(stages, ServeSettings(ring["num_pages"], ring["page_size"], ring["num_microbatches"]))
        self.placed = Placed(parse_pool(text), text, Plan(self.model, (pipeline,)), status["epoch"])
        return self.placed

    async def settled(self) -> Placed:
        """A look once nothing is being loaded, and neighbours have measured their links."""
        while True:
            await asyncio.sleep(QUIET_S)
            status = await _get(self.client, "/admin/status", self.operator)
            if status["ready"] and not status["loading"]:
                return await self.look()

    async def worked(self) -> dict[str, Worked]:
        """What each machine has done so far, by node id, once the last heartbeat has said it."""
        await asyncio.sleep(HEARTBEAT_S)
        status = await _get(self.client, "/admin/status", self.operator)
        if status["epoch"] != self.placed.epoch:
            raise PlacedAnew
        return {node["id"]: Worked(node["busy_s"], node["steps"]) for node in status["nodes"]}

    async def ask(self, requests: Sequence[Asked]) -> list[Answered]:
        """All requests, each at its time; in their order."""
        began_s = time.perf_counter()
        return list(await asyncio.gather(*(self._one(request, began_s) for request in requests)))

    async def _one(self, asked: Asked, began_s: float) -> Answered:
        await asyncio.sleep(max(0.0, began_s + asked.at_s - time.perf_counter()))
        body = {"model": self.model, "prompt": list(asked.prompt), "max_tokens": asked.output_tokens, "stream": True}
        body |= {"temperature": 0.0, "ignore_eos": True, "stream_options": {"include_usage": True}}
        sent_s = time.perf_counter() - began_s
        first_s, tokens = 0.0, 0
        try:
            async with self.client.stream("POST", "/v1/completions", json=body) as response:
                if response.is_error:
                    return Answered(sent_s, 0.0, 0.0, 0, (await response.aread()).decode(errors="replace")[:300])
                async for line in response.aiter_lines():
                    if not line.startswith("data:") or line == "data: [DONE]":
                        continue
                    first_s = first_s or time.perf_counter() - began_s
                    chunk = json.loads(line[5:])
                    if "error" in chunk:
                        return Answered(sent_s, first_s, 0.0, tokens, chunk["error"]["message"][:300])
                    tokens = (chunk.get("usage") or {}).get("completion_tokens", tokens)
        except httpx.HTTPError as error:
            return Answered(sent_s, first_s, 0.0, tokens, str(error) or type(error).__name__)
        return Answered(sent_s, first_s, time.perf_counter() - began_s, tokens)

    def cpu_seconds(self) -> float:
        """Processor time of all processes of the pool and of this one, which asks."""
        processes = [psutil.Process(), *(psutil.Process(child.process.pid) for child in self.children)]
        return sum(process.cpu_times().user + process.cpu_times().system for process in processes)


async def start(
    lab: Lab,
    model: str,
    shape: ModelShape,
    machines: Sequence[Machine],
    head_region: str,
    nice: int,
    codec: str = "raw",
) -> LivePool:
    """A head and its workers, one after the other so that each measures itself undisturbed. `nice` as in `prefer`."""
    options = ("--dtype", shape.dtype, "--min-nodes", str(len(machines)))
    head = await lab.head(model, *options, region=head_region, codec=codec)
    prefer(head.process.pid, nice)
    door = await head.wait_for("its address", is_event("listening"), BOOT_S)
    for machine in machines:
        spec = WorkerSpec(machine.name, machine.region, machine.memory_bytes(shape), machine.speed)
        child = await lab.worker(spec, door["ticket"])
        prefer(child.process.pid, nice)
        await child.wait_for("its measurement", is_event("measured"), BOOT_S)
    await head.wait_for("a placement", is_event("placed"), PLACED_S)
    client = httpx.AsyncClient(
        base_url=door["url"], timeout=httpx.Timeout(10, read=180), limits=httpx.Limits(max_connections=None)
    )
    operator = {"authorization": f"Bearer {(lab.data_dir('head') / 'admin.token').read_text().strip()}"}
    pool = LivePool(client, model, lab.children, operator)
    await pool.settled()
    return pool


async def _get(client: httpx.AsyncClient, path: str, operator: dict[str, str]) -> Any:
    return (await client.get(path, headers=operator)).raise_for_status().json()


def load() -> dict[str, Any]:
    """How busy the machine is."""
    return {"load_average": [round(x, 2) for x in os.getloadavg()], "at": time.strftime("%H:%M:%S")}


def prefer(pid: int, nice: int) -> None:
    """Let this process' scheduling group have its share before others on this machine (Linux, root; else nothing)."""
    with suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text(str(nice))
