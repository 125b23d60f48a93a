"""Does distance slow a ring? Tokens per second of pools whose stages stand far apart, beside one whose stages do not.

Four stages of a dense model of 40 M parameters, each in a process of its own that lends the same memory and the same
share of this machine, on links of our own shaping; the head stands beside all of them, so that only hops of the ring
are long. Both pools of a part work at the same time, so that what else happens on the machine meets both alike: load
from nothing, a warm-up in which every stream ends once, which is not counted, and a window at constant concurrency.
Each part takes less than four minutes.

    python benchmarks/ring.py 8 16 32 64 128 --json RECORD      one-way delays in ms, each against 0
    python benchmarks/ring.py steps-128 plain-50 --json RECORD  against four steps in flight; against one
    python benchmarks/ring.py rounds frames --json RECORD       DeServe's table by the law; frames that go astray
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from functools import partial
from itertools import combinations
from math import ceil
from pathlib import Path
from typing import Any

import httpx

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.forecast_models import DTYPE, folder_of, shape_in
from benchmarks.forecast_pool import LivePool, Worked
from benchmarks.records import percent, record_parts
from benchmarks.ring_load import Load, requests, texts
from muster.cost.memory import WorkspaceOptions, stage_bytes
from muster.lab.processes import Lab, WorkerSpec
from muster.lab.rehearsal import is_event
from muster.sim.serve.rounds import steps_in_flight
from muster.spec.model_shape import ModelShape

MODEL = "dense"
BOOT_S, PLACED_S = 300.0, 300.0
PINNED_S = 120.0
"""A machine that was lost has its layers back after the next look at a minute's end."""
STAGES = {"a": "0-1", "b": "2-4", "c": "5-6", "d": "7-7"}
"""Machines and their layers: the same split everywhere, for the planner would choose another for another distance. The
last has the logits as well, which take as long as three layers, and so is the slowest."""
CACHE_TOKENS = 100_000
"""Of a stage of three layers; as many in every pool."""
LAYERS = 3
CHECKED = 16
"""Requests whose text must be the same in all pools."""
FRAMES = 10_000
DESERVE = (
    (0, 20, 3.37, 445.2),
    (16, 20, 3.27, 458.5),
    (32, 20, 3.28, 457.3),
    (58.4, 16, 2.76, 434.1),
    (64, 20, 3.28, 456.8),
    (256, 36, 6.10, 442.9),
)
"""Milliseconds one way, steps in flight, seconds of a round, tokens per second (deserve_exp/exp_args.csv, README)."""
DESERVE_STAGES, DESERVE_BATCH = 8, 75
DELAYS_MS = ("8", "16", "32", "64", "128")
AGAINST = {
    f"{name}-{ms}": (steps, int(ms)) for name, steps in (("steps", 4), ("plain", 1)) for ms in (*DELAYS_MS, "50")
}
"""The pool that learns against one with so many steps in flight, at the same delay."""


@dataclass(frozen=True, slots=True)
class Variant:
    name: str
    delay_ms: int
    steps: int = 0
    """In flight, always; 0 lets the engine learn."""


def variants(part: str) -> tuple[Variant, Variant]:
    """What is compared: the second over the first."""
    if part in AGAINST:
        steps, delay_ms = AGAINST[part]
        return Variant(f"{steps} steps", delay_ms, steps), Variant("as many steps as it takes", delay_ms)
    return Variant("0 ms", 0), Variant(f"{part} ms", int(part))


class FarLab(Lab):
    """A lab whose head may keep a fixed number of steps in flight."""

    def __init__(self, folder: Path, scenario: str, steps: int) -> None:
        super().__init__(folder, scenario)
        self._steps_in_flight = steps

    def command(self, name: str) -> list[str]:
        if name == "head":
            return [sys.executable, str(Path(__file__).parent / "ring_head.py"), str(self._steps_in_flight)]
        return super().command(name)


def scenario(folder: Path, delay_ms: int) -> str:
    """A file in which every hop takes so long one way. Bandwidth is no matter here."""
    pairs = combinations(STAGES, 2)
    speed = "bandwidth_bytes_per_s = 125e6\n"
    text = f'name = "ring"\nregions = {json.dumps(["head", *STAGES])}\n[elsewhere]\nlatency_s = 0.0\n{speed}'
    for pair in pairs:
        text += f"[[link]]\nbetween = {json.dumps(pair)}\nlatency_s = {delay_ms / 1000}\n{speed}"
    file = folder / "scenario.toml"
    file.write_text(text)
    return str(file)


@dataclass(slots=True)
class Pool:
    variant: Variant
    live: LivePool
    url: str

    async def ring(self) -> dict[str, Any]:
        status = (await self.live.client.get("/admin/status", headers=self.live.operator)).raise_for_status().json()
        (pipeline,) = [one for job in status["jobs"] for one in job["pipelines"]]
        return dict(pipeline)

    async def as_pinned(self) -> bool:
        """Whether every machine has the layers that it is to have."""
        placed = {one["name"]: f"{one['first']}-{one['last'] - 1}" for one in (await self.ring())["placement"]}
        return placed == STAGES

    async def until_pinned(self) -> None:
        async with asyncio.timeout(PINNED_S):
            while not await self.as_pinned():
                await asyncio.sleep(1)


async def start(stack: AsyncExitStack, variant: Variant, shape: ModelShape, folder: str, speed: float) -> Pool:
    home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    lab = await stack.enter_async_context(FarLab(home, scenario(home, variant.delay_ms), variant.steps))
    pins = [word for name, layers in STAGES.items() for word in ("--pin", f"{name}={layers}")]
    head = await lab.head(folder, "--dtype", DTYPE, "--min-nodes", str(len(STAGES)), *pins, region="head")
    door = await head.wait_for("its address", is_event("listening"), BOOT_S)
    ends = ((0, LAYERS), (shape.num_layers - LAYERS, shape.num_layers))
    memory = max(stage_bytes(shape, *end, CACHE_TOKENS, WorkspaceOptions()) for end in ends)
    for name in STAGES:
        worker = await lab.worker(WorkerSpec(name, name, memory, speed), door["ticket"])
        await worker.wait_for("its measurement", is_event("measured"), BOOT_S)
    await head.wait_for("a placement", is_event("placed"), PLACED_S)
    live = LivePool(_client(door["url"]), folder, lab.children, _operator(lab))
    stack.push_async_callback(live.client.aclose)
    await live.settled()
    return Pool(variant, live, door["url"])


def _client(url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, timeout=httpx.Timeout(60))


def _operator(lab: Lab) -> dict[str, str]:
    return {"authorization": f"Bearer {(lab.data_dir('head') / 'admin.token').read_text().strip()}"}


async def window(pool: Pool, shape: ModelShape, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """One turn of a pool."""
    supply = requests(seed, shape.vocab_size)
    async with Load(pool.url, pool.live.model, options.concurrency, supply) as load:
        await asyncio.sleep(options.warm_up)
        before, cpu_s, began_s = await _worked(pool), pool.live.cpu_seconds(), time.perf_counter()
        tokens, ended = load.tokens, load.ended
        load.round_s, load.ended_tokens = 0.0, 0
        await asyncio.sleep(options.window)
        wall_s = time.perf_counter() - began_s
        tokens, ended = load.tokens - tokens, load.ended - ended
        cpu_s, after = pool.live.cpu_seconds() - cpu_s, await _worked(pool)
        ring, kept = await pool.ring(), await pool.as_pinned()
    order = [stage["node"] for stage in ring["placement"]]
    worked = [after[node].since(before[node]) for node in order]
    return {
        "tokens_per_s": tokens / wall_s,
        "as_pinned": kept,
        "tokens": tokens,
        "wall_s": round(wall_s, 2),
        "cpu_s_per_token": cpu_s / max(1, tokens),
        "requests_ended": ended,
        "failed": load.failed,
        "last_failure": load.words,
        "miscounted": load.miscounted,
        "round_s": load.round_s / max(1, load.ended_tokens),
        "in_flight": ring["in_flight"],
        "fewest_in_flight": steps_in_flight(
            [max(1e-6, one.busy_s / max(1, one.steps)) for one in worked], len(STAGES) * pool.variant.delay_ms / 1000
        ),
        "planned_in_flight": ring["work"]["num_microbatches"],
        "busy": [round(one.busy_s / wall_s, 3) for one in worked],
        "steps_per_s": round(worked[-1].steps / wall_s, 2),
        "load_average": round(os.getloadavg()[0], 2),
    }


async def _worked(pool: Pool) -> dict[str, Worked]:
    status = (await pool.live.client.get("/admin/status", headers=pool.live.operator)).raise_for_status().json()
    return {node["id"]: Worked(node["busy_s"] or 0.0, node["steps"] or 0) for node in status["nodes"]}


async def compare(part: str, options: argparse.Namespace, home: Path) -> dict[str, Any]:
    folder = folder_of(MODEL, home)
    shape = shape_in(folder)
    async with AsyncExitStack() as stack:
        pools = [await start(stack, variant, shape, folder, options.speed) for variant in variants(part)]
        supply = requests(-1, shape.vocab_size)
        asked = [next(supply) for _ in range(CHECKED)]
        answers = [await texts(pool.url, folder, asked) for pool in pools]
        rings = [await pool.ring() for pool in pools]
        turns: list[list[dict[str, Any]]] = [[] for _ in pools]
        for turn in range(options.turns):
            for pool in pools:
                await pool.until_pinned()
            both = await asyncio.gather(*(window(pool, shape, turn, options) for pool in pools))
            for pool, windows, found in zip(pools, turns, both, strict=True):
                say(f"{pool.variant.name}: {json.dumps(found)}")
                windows.append(found)
        again = [await texts(pool.url, folder, asked) for pool in pools]
    kept = [[one for one in windows if one["as_pinned"]] for windows in turns]
    if not all(kept):
        raise RuntimeError("A pool lost a machine in every window, so that nothing can be compared.")
    rates = [statistics.median(one["tokens_per_s"] for one in windows) for windows in kept]
    return {
        "variants": [asdict(pool.variant) for pool in pools],
        "placements": [ring["placement"] for ring in rings],
        "concurrency": options.concurrency,
        "speed": options.speed,
        "windows": turns,
        "tokens_per_s": rates,
        "ratio": rates[1] / rates[0],
        "different_texts": sum(
            one != answers[0][number] for found in (*answers, *again) for number, one in enumerate(found)
        ),
        "moved": sum(not one["as_pinned"] for windows in turns for one in windows),
        "failed": sum(one["failed"] for windows in turns for one in windows),
    }


def rounds(record: dict[str, Any]) -> dict[str, Any]:
    """DeServe's rows with as many steps as the law asks for, times what this pool kept in flight beyond it at most."""
    windows = [one for part in DELAYS_MS if part in record for one in record[part]["result"]["windows"][1]]
    margin = max((one["in_flight"] / one["fewest_in_flight"] for one in windows), default=1.0)
    rows = []
    for latency_ms, in_flight, round_s, tokens_per_s in DESERVE:
        stage_s = DESERVE_BATCH / tokens_per_s
        fewest = steps_in_flight([stage_s] * DESERVE_STAGES, DESERVE_STAGES * latency_ms / 1000)
        ours = ceil(margin * fewest)
        rows.append(
            {
                "latency_ms": latency_ms,
                "published_in_flight": in_flight,
                "published_round_s": round_s,
                "in_flight": ours,
                "round_s": ours * stage_s,
            }
        )
    shorter = sum(row["round_s"] < row["published_round_s"] for row in rows)
    return {"margin": margin, "windows": len(windows), "rows": rows, "shorter": shorter}


def frames() -> dict[str, Any]:
    """Ten thousand for each of four seeds."""
    from tests.node.runners.test_resend import run

    found = []
    for seed in range(4):
        ring, wrong, requests = run(seed, FRAMES)
        found.append({"seed": seed, "hops": [hop.counts for hop in ring.hops], "wrong": wrong, "answers": requests})
    return {"runs": found, "wrong": sum(one["wrong"] for one in found)}


def say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=(*DELAYS_MS, *AGAINST, "rounds", "frames"), metavar="PART")
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--models", type=Path, default=None, help="where to keep the generated model")
    parser.add_argument("--concurrency", type=int, default=1024)
    parser.add_argument("--speed", type=float, default=0.2, help="share of this machine that each stage is")
    parser.add_argument("--warm-up", type=float, default=60.0)
    parser.add_argument("--window", type=float, default=60.0)
    parser.add_argument("--turns", type=int, default=1)
    return parser.parse_args(words)


def main() -> None:
    options = parse()
    with tempfile.TemporaryDirectory() as temporary:
        home: Path = options.models or Path(temporary)
        home.mkdir(parents=True, exist_ok=True)

        def run(part: str) -> dict[str, Any]:
            if part == "rounds":
                known = options.json is not None and options.json.exists()
                return rounds(json.loads(options.json.read_text()) if known else {})
            return frames() if part == "frames" else asyncio.run(compare(part, options, home))

        head = {"benchmark": "ring", "method": (__doc__ or "").strip()}
        about = {"options": json.dumps({name: str(value) for name, value in vars(options).items()})}
        figures = {part: partial(claims_of, part) for part in options.parts}
        record = record_parts(options.json, head, options.parts, run, about, figures)
    for part in options.parts:
        result = record[part]["result"]
        print(
            part, {name: result.get(name) for name in ("tokens_per_s", "ratio", "different_texts", "shorter", "wrong")}
        )


def claims_of(part: str, result: dict[str, Any]) -> dict[str, float]:
    if part in DELAYS_MS:
        figures = {f"ring.1.at-{part}": percent(result["ratio"])}
        return figures | ({"ring.1.texts": result["different_texts"]} if part == DELAYS_MS[-1] else {})
    if part in ("plain-50", "steps-128"):
        return {"ring.2.plain" if part == "plain-50" else "ring.2.fixed": round(result["ratio"], 3)}
    if part == "rounds":
        return {"ring.3": result["shorter"]}
    return {"ring.4": result["wrong"]} if part == "frames" else {}


if __name__ == "__main__":
    main()
