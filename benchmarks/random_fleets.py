"""What must hold of plans for any small fleet, on 200 drawn at random. Measures nothing but the planner itself.

    python benchmarks/random_fleets.py [--fleets 200] [--first 0] [--output FILE]

Of each fleet of one to four machines, with a model, lengths of requests and an objective drawn as well:

    reserve     no device of the plan holds more than what `spec/reserve.py` lets be planned with
    agreement   closed form and simulation of the plan differ by so much: tokens a second where all requests are there
                from the start, and the mean request at a third and at two thirds of the rate that the plan bears
    monotone    with one more machine the plan is worth at least as much

Offline, lengths vary by half around their means, as those that `muster plan` draws: requests of one length that all
start at once end at once as well, and come in waves for ever, which is no steady state. Nor is a queue: where the
pipelines differ so much that requests are sent to full ones at such a rate, it is not compared (`left_out` counts it).
"""

import argparse
import json
import os
import random
import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.records import machine
from benchmarks.register import claims
from muster.cost.measured import constants_of
from muster.cost.named_shapes import named_shape
from muster.errors import DoesNotFit, MusterError
from muster.plan.found import Found
from muster.plan.serve.options import Objective, ServeOptions
from muster.plan.serve.search import plan_serving
from muster.sim.serve.dispatch import dealt_out
from muster.sim.serve.forecast import serve_forecast
from muster.sim.serve.ring import Ring
from muster.sim.serve.simulate import simulate_serving
from muster.sim.serve.steady_state import steady_state
from muster.spec.devices import device_facts
from muster.spec.forecast import ServeForecast
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Plan
from muster.spec.pool import LinkSpeed, Pool
from muster.spec.pool_file import parse_pool
from muster.spec.reserve import usable_bytes
from muster.spec.workload import ServeWorkload

DEVICES = ("t4", "l4", "rtx-3060", "rtx-3090", "rtx-4090", "a10g", "a40", "a100-40gb", "v100-16gb")
MODELS = ("gpt2-xl", "opt-1.3b", "llama-3.2-3b", "qwen3-4b", "opt-6.7b", "llama-2-7b", "llama-3-8b", "qwen2.5-14b")
PROMPTS, OUTPUTS = (16, 100, 500, 1500), (8, 32, 128, 400)
LATENCIES_S, BANDWIDTHS = (1e-4, 2e-3, 0.02, 0.08), (5e6, 5e7, 1.25e9)
OBJECTIVES: tuple[Objective, ...] = ("throughput", "throughput", "latency")
_ELSEWHERE = "[elsewhere]\nlatency_s = 0.001\nbandwidth_bytes_per_s = 1.25e9\n"
LOADS = (1 / 3, 2 / 3)
BAR = 0.15
SPREAD = 0.5
"""Of lengths around their means, offline."""
SELDOM = 0.05
"""Of the time of a request; so much of it may be a queue before a full pipeline."""
LEAST_REQUESTS, TURNOVERS = 1000, 16
"""So often are all requests that run at once replaced by others in a simulation."""
BARELY = 1e-9
"""A plan that is worth so much less is worth the same: sums of floats depend on their order."""


@dataclass(frozen=True)
class Case:
    """A fleet that can hold the model, the same with one more machine, and what is asked of them."""

    seed: int
    pool: Pool
    larger: Pool
    shape: ModelShape
    workload: ServeWorkload
    objective: Objective

    def found(self, pool: Pool) -> Found[ServeForecast]:
        options = ServeOptions(objective=self.objective)
        return plan_serving(self.shape, pool, self.workload, options, constants_of(pool), seed=self.seed)


def drawn(seed: int) -> Case:
    rng = random.Random(seed)
    count = rng.randint(1, 4)
    tables = [_machine(rng, number) for number in range(count + 1)]
    larger = parse_pool("\n".join([*tables, _ELSEWHERE]))
    names = [node.id for node in larger.nodes]
    # Seldom more than two kinds of links, as within and between two sites.
    speeds = [LinkSpeed(rng.choice(LATENCIES_S), rng.choice(BANDWIDTHS)) for _ in range(2)]
    links = {(a, b): rng.choice(speeds) for a in names for b in names if a != b}
    larger = replace(larger, links=links)
    smaller = replace(larger, nodes=larger.nodes[:-1])
    shape = named_shape(rng.choice(MODELS), "float16")
    workload = ServeWorkload(rng.choice(PROMPTS), rng.choice(OUTPUTS))
    return Case(seed, smaller, larger, shape, workload, rng.choice(OBJECTIVES))


def _machine(rng: random.Random, number: int) -> str:
    count, device = rng.choice([1, 1, 1, 2, 4]), rng.choice(DEVICES)
    return f'[[machine]]\nname = "m{number}"\ndevice = "{device}"\ndevices = {count}\nprice_per_hour = 1.0\n'


def tightest(plan: Plan, forecast: ServeForecast, pool: Pool) -> float:
    """Bytes that the fullest device leaves beyond its reserve, by the table of devices; below 0 it is broken into.

    A device in two stages at once holds both.
    """
    held: dict[tuple[str, int], int] = {}
    for stage in forecast.stages:
        for device in stage.devices:
            need = stage.weights_bytes + stage.cache_bytes + stage.other_bytes
            held[stage.node, device] = held.get((stage.node, device), 0) + need
    nodes = {node.id: node for node in pool.nodes}
    left = []
    for (name, _), need in held.items():
        facts = device_facts(nodes[name].device.name)
        left.append(usable_bytes(facts.kind, facts.memory_bytes) - need)
    return min(left)


def differences(case: Case, found: Found[ServeForecast]) -> dict[str, float]:
    """Closed form over simulation less one, by what was asked."""
    offline = replace(case.workload, requests_per_s=None)
    constants = constants_of(case.pool)
    told = serve_forecast(found.plan, case.pool, case.shape, offline, constants)
    seen = simulate_serving(
        found.plan, case.pool, case.shape, offline, constants=constants, seed=case.seed, spread=SPREAD
    )
    result = {"offline": told.tokens_per_s / seen.steady_tokens_per_s - 1}
    for load in LOADS:
        rate = load * told.capacity_tokens_per_s / case.workload.output_tokens
        asked = replace(case.workload, requests_per_s=rate)
        said = serve_forecast(found.plan, case.pool, case.shape, asked, constants)
        if queue_s(case, found.plan, asked) > SELDOM * said.request_s:
            continue
        count = int(max(LEAST_REQUESTS, TURNOVERS * rate * said.request_s))
        came = simulate_serving(
            found.plan, case.pool, case.shape, asked, constants=constants, seed=case.seed, num_requests=count
        )
        # The first meet an empty pool, and the last one that empties.
        middle = came.requests[count // 4 : -count // 8]
        result[f"request at {load:.2f}"] = said.request_s / mean(one.request_s for one in middle) - 1
    return {name: round(value, 4) for name, value in result.items()}


def queue_s(case: Case, plan: Plan, asked: ServeWorkload) -> float:
    """What a request waits on the mean because it is sent to a full pipeline."""
    rings = [Ring(plan, i, case.pool, case.shape, constants_of(case.pool)) for i in range(len(plan.pipelines))]
    full = [steady_state(one, asked, one.resident(asked.prompt_tokens, asked.output_tokens)) for one in rings]
    return sum(one.part * one.queue_s for one in dealt_out(rings, full, asked))


def lost(case: Case, found: Found[ServeForecast]) -> float:
    """Of its worth, what the plan loses as the pool gains a machine; 0 if it gains."""
    more = case.found(case.larger)
    worse = more.score - found.score if case.objective == "latency" else found.score - more.score
    return max(0.0, round(worse / found.score, 6)) if worse > BARELY * found.score else 0.0


def tried(seed: int) -> dict[str, Any] | None:
    """None where the fleet cannot hold the model."""
    case = drawn(seed)
    try:
        found = case.found(case.pool)
    except DoesNotFit:
        return None
    return {
        "seed": seed,
        "model": case.shape.name,
        "objective": case.objective,
        "machines": [f"{node.device_count} {node.device.name}" for node in case.larger.nodes],
        "lengths": [case.workload.prompt_tokens, case.workload.output_tokens],
        "pipelines": [" + ".join(str(len(stage.devices)) for stage in one.stages) for one in found.plan.pipelines],
        "spare_bytes": int(tightest(found.plan, found.forecast, case.pool)),
        "differences": differences(case, found),
        "lost": lost(case, found),
    }


def run(fleets: int, first: int, output: Path | None) -> None:
    date = datetime.now(UTC).isoformat(timespec="seconds")
    rows: list[dict[str, Any]] = []
    seed = first
    while len(rows) < fleets:
        try:
            row = tried(seed)
        except MusterError as error:
            raise SystemExit(f"fleet {seed}: {error}") from error
        seed += 1
        if row is not None:
            rows.append(row)
            worst = max(map(abs, row["differences"].values()))
            print(f"{row['seed']}: {row['spare_bytes'] >> 20} MiB spare, {worst:.1%} apart, {row['lost']:.2%} lost")
    left_out = sum(len(LOADS) + 1 - len(row["differences"]) for row in rows)
    values = {
        "faults.6.reserve": float(sum(row["spare_bytes"] < 0 for row in rows)),
        "faults.6.agreement": float(sum(max(map(abs, row["differences"].values())) > BAR for row in rows)),
        "faults.6.monotone": float(sum(row["lost"] > 0 for row in rows)),
    }
    record: dict[str, Any] = {"about": {"date": date, "machine": machine()}, "rows": rows, "left_out": left_out}
    record["figures"] = values
    if fleets >= 200:
        record["claims"] = claims(values, machine(), date)
    print(json.dumps(values, indent=1))
    if output:
        output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fleets", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    run(args.fleets, args.first, args.output)


if __name__ == "__main__":
    main()
