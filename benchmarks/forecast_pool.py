"""A real pool for one run: a head and its workers as processes, requests over HTTP, everything timed at the client.

What the forecast may know is taken before the first request: the pool as the head gives it (`GET /admin/pool`) and the
pipeline that it placed. Knows nothing of forecasts.
"""

import asyncio
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from muster.cost.memory import WorkspaceOptions, stage_bytes
from muster.lab.processes import Child, Lab, WorkerSpec
from muster.lab.rehearsal import BOOT_S, PLACED_S, is_event
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Pipeline, Plan, Stage
from muster.spec.pool import Pool
from muster.spec.pool_file import parse_pool

QUIET_S = 6.0
"""Between the placement and the first look at the pool: neighbours are still measuring their links."""
CACHE_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class Machine:
    """A worker: `share` is of the memory that the whole model would need on one machine."""

    name: str
    region: str
    speed: float
    share: float


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


@dataclass(slots=True)
class LivePool:
    """A pool that serves."""

    placed: Placed
    client: httpx.AsyncClient
    model: str
    children: Sequence[Child]

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


async def start(lab: Lab, model: str, shape: ModelShape, machines: Sequence[Machine], head_region: str) -> LivePool:
    """A head and its workers, one after the other so that each measures itself undisturbed."""
    options = ("--dtype", shape.dtype, "--min-nodes", str(len(machines)))
    head = await lab.head(model, *options, region=head_region)
    door = await head.wait_for("its address", is_event("listening"), BOOT_S)
    whole = stage_bytes(shape, 0, shape.num_layers, min(shape.max_context, CACHE_TOKENS), WorkspaceOptions())
    for machine in machines:
        spec = WorkerSpec(machine.name, machine.region, int(whole * machine.share), machine.speed)
        child = await lab.worker(spec, door["ticket"])
        await child.wait_for("its measurement", is_event("measured"), BOOT_S)
    await head.wait_for("a placement", is_event("placed"), PLACED_S)
    await asyncio.sleep(QUIET_S)
    client = httpx.AsyncClient(
        base_url=door["url"], timeout=httpx.Timeout(10, read=180), limits=httpx.Limits(max_connections=None)
    )
    return LivePool(await look(client, lab.data_dir("head"), model), client, model, lab.children)


async def look(client: httpx.AsyncClient, home: Path, model: str) -> Placed:
    """The pool and the pipeline, as the head tells them to its operator."""
    operator = {"authorization": f"Bearer {(home / 'admin.token').read_text().strip()}"}
    text = (await client.get("/admin/pool", headers=operator)).raise_for_status().text
    status: dict[str, Any] = (await client.get("/admin/status", headers=operator)).raise_for_status().json()
    stages = tuple(Stage(stage["node"], stage["first"], stage["last"]) for stage in status["placement"])
    ring = status["pipeline"]
    pipeline = Pipeline(stages, ring["num_pages"], ring["page_size"], ring["num_microbatches"])
    return Placed(parse_pool(text), text, Plan(model, (pipeline,)))


def load() -> dict[str, Any]:
    """How busy the machine is."""
    return {"load_average": [round(x, 2) for x in os.getloadavg()], "at": time.strftime("%H:%M:%S")}
