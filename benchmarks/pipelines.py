"""Several pipelines of one model: do replicas add up, does the door choose well, and does a loss show?

    python benchmarks/pipelines.py sum-2 sum-3 sum-4 --json RECORD    replicas of unequal speed against their sum
    python benchmarks/pipelines.py choice prefix --json RECORD        the door's choice against turns, and blind
    python benchmarks/pipelines.py kills fleets --json RECORD         failover; plans of random fleets (pipelines_cases)

Replicas are worker processes that each hold the whole model and lend a fixed share of this machine, so that together
they do not fill it. `sum-N`: offline load at constant concurrency on each alone, then on all of them, in windows of the
same length. `choice`: requests of unequal length that come at random, at a share of what the pool can do, to a
door that chooses and to one that takes turns. `prefix`: requests that begin with one of a few long beginnings.
"""

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import httpx

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.forecast_models import folder_of, shape_in
from benchmarks.forecast_pool import Answered, Asked, LivePool
from benchmarks.records import percent, record_parts
from benchmarks.ring_load import Load, requests
from muster.cost.memory import WorkspaceOptions, stage_bytes
from muster.lab.processes import Lab, WorkerSpec
from muster.lab.rehearsal import is_event
from muster.spec.model_shape import ModelShape

MODEL = "dense"
BOOT_S, READY_S = 300.0, 300.0
CACHE_TOKENS = 16_000
SPEEDS = (0.24, 0.16, 0.12, 0.08)
"""Shares of this machine: together less than one of its cores."""
CONCURRENCY = 24
"""Requests at once for each replica."""
LOAD = 0.6
"""Of what the pool can do, in `choice`."""
LENGTHS = (8, 96)
BEGINNINGS, BEGINNING_TOKENS = 6, 320


class DoorLab(Lab):
    """A lab whose head has one of the doors of `pipelines_head`."""

    def __init__(self, folder: Path, door: str) -> None:
        super().__init__(folder)
        self._door = door

    def command(self, name: str) -> list[str]:
        if name == "head":
            return [sys.executable, str(Path(__file__).parent / "pipelines_head.py"), self._door]
        return super().command(name)


async def start(
    stack: AsyncExitStack, folder: str, shape: ModelShape, speeds: Sequence[float], door: str = "chooses"
) -> LivePool:
    """A pool with a pipeline on each worker."""
    home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    lab = await stack.enter_async_context(DoorLab(home, door))
    words = ("--dtype", shape.dtype, "--pipelines", str(len(speeds)), "--min-nodes", str(len(speeds)))
    head = await lab.head(folder, *words)
    door_open = await head.wait_for("its address", is_event("listening"), BOOT_S)
    nbytes = stage_bytes(shape, 0, shape.num_layers, CACHE_TOKENS, WorkspaceOptions())
    for number, speed in enumerate(speeds):
        child = await lab.worker(WorkerSpec(f"w{number}", "home", nbytes, speed), door_open["ticket"])
        await child.wait_for("its measurement", is_event("measured"), BOOT_S)
    client = await stack.enter_async_context(
        httpx.AsyncClient(
            base_url=door_open["url"], timeout=httpx.Timeout(10, read=300), limits=httpx.Limits(max_connections=None)
        )
    )
    token = (lab.data_dir("head") / "admin.token").read_text().strip()
    pool = LivePool(client, shape.name, lab.children, {"authorization": f"Bearer {token}"})
    async with asyncio.timeout(READY_S):
        while sum(bool(one["epoch"]) for one in await pipelines(pool)) < len(speeds):
            await asyncio.sleep(0.5)
    return pool


async def pipelines(pool: LivePool) -> list[dict[str, Any]]:
    status = (await pool.client.get("/admin/status", headers=pool.operator)).raise_for_status().json()
    return [one for job in status["jobs"] for one in job["pipelines"]]


async def offline(pool: LivePool, replicas: int, shape: ModelShape, options: argparse.Namespace) -> dict[str, Any]:
    """Tokens per second at constant concurrency, and what the door saw of each pipeline."""
    url = str(pool.client.base_url)
    async with Load(url, pool.model, CONCURRENCY * replicas, requests(1, shape.vocab_size)) as load:
        await asyncio.sleep(options.warm_up)
        began_s, before = time.perf_counter(), load.tokens
        await asyncio.sleep(options.window)
        seconds, tokens = time.perf_counter() - began_s, load.tokens - before
        seen = await pipelines(pool)
    return {
        "tokens_per_s": tokens / seconds,
        "failed": load.failed,
        "pipelines": [
            {"forecast_tokens_per_s": one["forecast"]["tokens_per_s"], "measured": one["measured"]} for one in seen
        ],
    }


async def adds_up(count: int, folder: str, shape: ModelShape, options: argparse.Namespace) -> dict[str, Any]:
    alone = []
    for speed in SPEEDS[:count]:
        async with AsyncExitStack() as stack:
            alone.append(await offline(await start(stack, folder, shape, [speed]), 1, shape, options))
    async with AsyncExitStack() as stack:
        together = await offline(await start(stack, folder, shape, SPEEDS[:count]), count, shape, options)
    total = sum(one["tokens_per_s"] for one in alone)
    return {"alone": alone, "together": together, "share_of_sum": together["tokens_per_s"] / total}


async def choice(folder: str, shape: ModelShape, options: argparse.Namespace) -> dict[str, Any]:
    result: dict[str, Any] = {}
    rate = 0.0
    for door in ("chooses", "turns"):
        async with AsyncExitStack() as stack:
            pool = await start(stack, folder, shape, SPEEDS[:3], door)
            if not rate:
                full = await offline(pool, 3, shape, options)
                rate = LOAD * full["tokens_per_s"] / (sum(LENGTHS) / 2)
            answered = await pool.ask(at_random(rate, options.requests, shape.vocab_size))
        result[door] = told(answered)
    return {**result, "requests_per_s": rate, "ratio": result["chooses"]["p99_s"] / result["turns"]["p99_s"]}


def at_random(rate: float, count: int, vocab_size: int) -> list[Asked]:
    draw, at_s, asked = random.Random(7), 0.0, []
    for _ in range(count):
        at_s += draw.expovariate(rate)
        prompt = tuple(draw.randrange(1, vocab_size) for _ in range(16))
        asked.append(Asked(at_s, prompt, draw.randint(*LENGTHS)))
    return asked


def told(answered: Sequence[Answered]) -> dict[str, Any]:
    good = [one for one in answered if not one.error]
    seconds = sorted(one.last_s - one.sent_s for one in good)
    return {
        "requests": len(answered),
        "failed": len(answered) - len(good),
        "median_s": statistics.median(seconds),
        "p99_s": seconds[min(len(seconds) - 1, int(0.99 * len(seconds)))],
        "median_first_s": statistics.median(one.first_s - one.sent_s for one in good),
    }


async def prefix(folder: str, shape: ModelShape, options: argparse.Namespace) -> dict[str, Any]:
    draw = random.Random(3)
    tokens = range(1, shape.vocab_size)
    beginnings = [tuple(draw.choices(tokens, k=BEGINNING_TOKENS)) for _ in range(BEGINNINGS)]
    asked, at_s = [], 0.0
    for _ in range(options.requests):
        at_s += draw.expovariate(options.prefix_rate)
        end = tuple(draw.choices(tokens, k=8))
        asked.append(Asked(at_s, draw.choice(beginnings) + end, 8))
    result: dict[str, Any] = {}
    for door in ("chooses", "blind"):
        async with AsyncExitStack() as stack:
            pool = await start(stack, folder, shape, [SPEEDS[1]] * 3, door)
            result[door] = told(await pool.ask(asked))
    return {**result, "ratio": result["chooses"]["median_first_s"] / result["blind"]["median_first_s"]}


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("sum-2", "sum-3", "sum-4", "choice", "prefix", "kills", "fleets")
    parser.add_argument("parts", nargs="+", choices=parts, metavar="PART")
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--models", type=Path, default=None, help="where to keep the generated model")
    parser.add_argument("--warm-up", type=float, default=40.0)
    parser.add_argument("--window", type=float, default=40.0)
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--prefix-rate", type=float, default=1.5, help="requests a second in `prefix`")
    parser.add_argument("--seeds", type=int, default=0, help="cases; 0: 100 kills, 50 fleets")
    return parser.parse_args(words)


def measured(part: str, options: argparse.Namespace) -> dict[str, Any]:
    if part in ("kills", "fleets"):
        from benchmarks import pipelines_cases

        if part == "kills":
            return pipelines_cases.kills(options.seeds or 100)
        return pipelines_cases.fleets(options.seeds or 50)
    with tempfile.TemporaryDirectory() as temporary:
        home: Path = options.models or Path(temporary)
        home.mkdir(parents=True, exist_ok=True)
        folder = folder_of(MODEL, home)
        shape = shape_in(folder)
        if part.startswith("sum-"):
            return asyncio.run(adds_up(int(part[4:]), folder, shape, options))
        return asyncio.run((choice if part == "choice" else prefix)(folder, shape, options))


def claims_of(part: str, result: dict[str, Any]) -> dict[str, float]:
    if part.startswith("sum-"):
        return {f"pipelines.3.{part}": percent(result["share_of_sum"])}
    if part == "kills":
        seconds = {"pipelines.4.median": result["median_s"], "pipelines.4.p95": result["p95_s"]}
        return seconds | {"pipelines.4.tokens": result["differing_tokens"]}
    if part == "fleets":
        return {"pipelines.6.equal": percent(result["equal_share"])}
    return {f"pipelines.3.{part}": round(result["ratio"], 4)}


def main() -> None:
    options = parse()
    head = {"benchmark": "pipelines", "method": (__doc__ or "").strip()}
    about = {"options": json.dumps({name: str(value) for name, value in vars(options).items()})}
    figures = {part: partial(claims_of, part) for part in options.parts}
    record = record_parts(options.json, head, options.parts, lambda part: measured(part, options), about, figures)
    for part in options.parts:
        print(part, claims_of(part, record[part]["result"]))


if __name__ == "__main__":
    main()
