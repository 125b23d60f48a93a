"""Unequal stages against equal ones, both run: what HexGen forecasts, in a pool of unequal processes of this machine.

A fleet of processes that lend unequal shares of the processor and unequal memory, two of them an island, measures
itself in a pool. From what it measured the planner makes its best plan, and its best symmetric one: one degree of
tensor parallelism and as many layers in every stage, as near as it goes. Each plan is then served by the same fleet
(`muster serve --plan`), and the same requests are sent: all at once, for tokens per second, and at a rate that is a
share of what the better plan can do, for the share that is answered within a deadline. Both are forecast by the
simulator before the first request, from the pool as it measured itself.

    python benchmarks/asymmetric_run.py rate deadline [--requests 48] [--json FILE]
"""

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import httpx

from benchmarks.forecast_models import folder_of, shape_in
from benchmarks.forecast_pool import Answered, Asked, LivePool, Machine, load
from benchmarks.records import record_parts
from muster.cost.measured import constants_of
from muster.lab.processes import Lab
from muster.lab.rehearsal import BOOT_S, PLACED_S, is_event
from muster.plan.joint import joined
from muster.plan.serve.options import ServeOptions
from muster.plan.serve.search import plan_serving
from muster.sim.serve.arrivals import trace
from muster.sim.serve.simulate import simulate_serving
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Plan
from muster.spec.plan_file import PlanFile, to_record
from muster.spec.pool import Pool
from muster.spec.pool_file import parse_pool
from muster.spec.workload import ServeWorkload


@dataclass(frozen=True)
class Lent:
    machine: Machine
    island: str = ""


FLEET = (
    Lent(Machine("near-0", "home", 0.45, 6), "near"),
    Lent(Machine("near-1", "home", 0.45, 6), "near"),
    Lent(Machine("slow", "home", 0.15, 4)),
)
WORKLOAD = ServeWorkload(prompt_tokens=48, output_tokens=32)
RATE, PATIENCE = 0.75, 2.5
"""Of what the planner's best can do; and the deadline, in times of a request that is alone on it."""


def drawn(count: int, vocab_size: int, per_s: float | None, seed: int) -> list[Asked]:
    random, at_s, found = Random(seed), 0.0, []
    for _ in range(count):
        prompt = tuple(random.randrange(1, vocab_size) for _ in range(WORKLOAD.prompt_tokens))
        found.append(Asked(at_s, prompt, WORKLOAD.output_tokens))
        at_s += random.expovariate(per_s) if per_s else 0.0
    return found


async def start(lab: Lab, folder: str, shape: ModelShape, *options: str) -> LivePool:
    head = await lab.head(folder, "--dtype", shape.dtype, "--min-nodes", str(len(FLEET)), *options)
    door = await head.wait_for("its address", is_event("listening"), BOOT_S)
    for lent in FLEET:
        machine = lent.machine
        words = ["join", door["ticket"], "--name", machine.name, "--region", machine.region, "--device", "cpu"]
        words += ["--layer-memory", str(machine.memory_bytes(shape)), "--speed", str(machine.speed)]
        words += ["--island", lent.island] if lent.island else []
        child = await lab.start(machine.name, words)
        await child.wait_for("its measurement", is_event("measured"), BOOT_S)
    await head.wait_for("a placement", is_event("placed"), PLACED_S)
    client = httpx.AsyncClient(base_url=door["url"], timeout=httpx.Timeout(10, read=180))
    operator = {"authorization": f"Bearer {(lab.data_dir('head') / 'admin.token').read_text().strip()}"}
    return LivePool(client, folder, lab.children, operator)


async def measured_pool(folder: str, shape: ModelShape) -> Pool:
    """As `muster plan --pool` gets it, with machines of an island as one machine of several devices."""
    with tempfile.TemporaryDirectory() as temporary:
        async with Lab(Path(temporary)) as lab:
            pool = await start(lab, folder, shape)
            await asyncio.sleep(8.0)  # neighbours are still measuring their links
            text = (await pool.client.get("/admin/pool", headers=pool.operator)).raise_for_status().text
            await pool.client.aclose()
    islands = {lent.machine.name: lent.island for lent in FLEET}
    found = parse_pool(text)
    found = replace(found, nodes=tuple(replace(node, island=islands[node.name]) for node in found.nodes))
    joint = joined(shape, found)
    names = {node.id: node.island for node in found.nodes if node.id in joint.members}
    nodes = tuple(replace(node, name=names.get(node.id, node.name)) for node in joint.pool.nodes)
    return replace(joint.pool, nodes=nodes)


def plans_for(shape: ModelShape, pool: Pool) -> dict[str, Plan]:
    options = ServeOptions(max_replicas=1, swap=False)
    both = {"asymmetric": options, "symmetric": replace(options, symmetric=True)}
    return {kind: plan_serving(shape, pool, WORKLOAD, one, constants_of(pool)).plan for kind, one in both.items()}


def forecast(
    plan: Plan, pool: Pool, shape: ModelShape, asked: Sequence[Asked], deadline_s: float | None
) -> dict[str, float]:
    rows = trace([(one.at_s, len(one.prompt), one.output_tokens) for one in asked])
    workload = replace(WORKLOAD, deadline_s=deadline_s)
    run = simulate_serving(plan, pool, shape, workload, arrivals=rows, constants=constants_of(pool))
    return {"tokens_per_s": run.tokens_per_s, "in_time": run.attainment or 0.0, "request_s": run.request_s}


def measured(answers: Sequence[Answered], deadline_s: float | None) -> dict[str, float]:
    done = [answer for answer in answers if not answer.error]
    if not done:
        raise RuntimeError(f"nothing was answered: {answers[0].error}")
    took = [answer.last_s - answer.sent_s for answer in done]
    return {
        "tokens_per_s": sum(answer.tokens for answer in done) / max(answer.last_s for answer in done),
        "in_time": sum(one <= (deadline_s or 0.0) for one in took) / len(answers),
        "request_s": sum(took) / len(took),
        "failed": len(answers) - len(done),
    }


async def ran(
    plan: Plan, pool: Pool, folder: str, shape: ModelShape, asked: Sequence[Asked], deadline_s: float | None
) -> dict[str, Any]:
    """The placement, beside the forecast and what was measured."""
    expected = forecast(plan, pool, shape, asked, deadline_s)
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "plan.lock"
        file = PlanFile("throughput", 0, shape, WORKLOAD, pool, plan)
        path.write_text(json.dumps(to_record(file)), encoding="utf-8")
        async with Lab(Path(temporary)) as lab:
            live = await start(lab, folder, shape, "--plan", str(path))
            status = (await live.client.get("/admin/status", headers=live.operator)).raise_for_status().json()
            warm = drawn(4, shape.vocab_size, None, seed=99)
            await live.ask(warm)
            answers = await live.ask(asked)
            await live.client.aclose()
    placed = [[stage["name"], stage["first"], stage["last"]] for stage in status["placement"]]
    return {"placement": placed, "forecast": expected, "measured": measured(answers, deadline_s), **load()}


async def run(part: str, requests: int, home: Path) -> dict[str, Any]:
    folder = folder_of("dense", home)
    shape = shape_in(folder)
    pool = await measured_pool(folder, shape)
    plans = plans_for(shape, pool)
    per_s, deadline_s = None, None
    if part == "deadline":
        best = forecast(plans["asymmetric"], pool, shape, drawn(requests, shape.vocab_size, None, 0), None)
        alone = forecast(plans["asymmetric"], pool, shape, drawn(1, shape.vocab_size, None, 0), None)
        per_s = RATE * best["tokens_per_s"] / WORKLOAD.output_tokens
        deadline_s = PATIENCE * alone["request_s"]
    asked = drawn(requests, shape.vocab_size, per_s, seed=1)
    result: dict[str, Any] = {"requests_per_s": per_s, "deadline_s": deadline_s}
    for kind, plan in plans.items():
        result[kind] = {"stages": [[s.node, s.first, s.last, s.degree] for s in plan.only_pipeline.stages]}
        result[kind] |= await ran(plan, pool, folder, shape, asked, deadline_s)
        print(f"{part} {kind}: {result[kind]}", flush=True)
    figure = "tokens_per_s" if part == "rate" else "in_time"
    for way in ("forecast", "measured"):
        both = [result[kind][way][figure] for kind in ("asymmetric", "symmetric")]
        result[f"{way}_gain"] = both[0] / max(both[1], 1e-9)
    return result


def rate_claims(result: dict[str, Any]) -> dict[str, float]:
    errors = [
        abs(one["forecast"]["tokens_per_s"] / one["measured"]["tokens_per_s"] - 1)
        for one in (result["asymmetric"], result["symmetric"])
    ]
    return {"pipelines.2.rate": result["measured_gain"], "pipelines.2.forecast": 100 * max(errors)}


def deadline_claims(result: dict[str, Any]) -> dict[str, float]:
    return {"pipelines.2.deadline": min(100.0, result["measured_gain"])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=("rate", "deadline"))
    parser.add_argument("--requests", type=int, default=48)
    parser.add_argument("--models", type=Path, default=Path(tempfile.gettempdir()) / "muster-models")
    parser.add_argument("--json", type=Path, help="where to write the record")
    parser.add_argument("--note", default="", help="what else the machine was doing")
    arguments = parser.parse_args()
    record_parts(
        arguments.json,
        {"benchmark": "asymmetric_run", "method": __doc__ or ""},
        arguments.parts,
        lambda part: asyncio.run(run(part, arguments.requests, arguments.models)),
        {"note": arguments.note},
        {"rate": rate_claims, "deadline": deadline_claims},
    )


if __name__ == "__main__":
    main()
