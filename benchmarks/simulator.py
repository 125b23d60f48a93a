"""How long does a simulation take, and how far is the closed form from it?

    python benchmarks/simulator.py [--json FILE]

Pipelines of eight equal machines (NVIDIA L4 as in the fleet `deserve-8xl4`), 30 ms and 1 Gbit/s apart, with
llama-3-8b: served offline (256 prompt and 64 output tokens, 240 requests for each pipeline, 24 steps of 4 sequences in
flight) and trained on (1F1B, 32 microbatches of 512 tokens). `cpu_s` is processor time of one simulation in one thread;
other work on the machine makes it longer. `gap` is simulated over forecast, less one: of tokens a second in the middle
of the run, and of the seconds of a step. Nothing is random.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.records import machine, percent
from benchmarks.register import claims
from muster.cost.named_shapes import named_shape
from muster.sim.serve.forecast import serve_forecast
from muster.sim.serve.simulate import simulate_serving
from muster.sim.train.forecast import train_forecast
from muster.sim.train.simulate import simulate_training
from muster.spec.fleets import shipped_fleet
from muster.spec.plan import Pipeline, Plan, ServeSettings, Stage
from muster.spec.pool import LinkSpeed, Pool
from muster.spec.workload import ServeWorkload, TrainWorkload

RESULTS = Path(__file__).parent / "results"
MACHINES = (8, 64, 256, 1000)
STAGES, SHAPE = 8, named_shape("llama-3-8b")


def fleet(machines: int) -> Pool:
    one = shipped_fleet("deserve-8xl4").nodes[0]
    nodes = tuple(replace(one, id=f"l4-{i}", name=f"l4-{i}") for i in range(machines))
    return Pool(nodes, default_link=LinkSpeed(0.03, 1.25e8))


def plan(machines: int, microbatches: int, pages: int, batch: int) -> Plan:
    cuts = [SHAPE.num_layers * i // STAGES for i in range(STAGES + 1)]
    rows = [range(first, first + STAGES) for first in range(0, machines, STAGES)]
    return Plan(
        SHAPE.name,
        tuple(
            Pipeline(
                tuple(Stage(f"l4-{i}", a, b) for i, a, b in zip(row, cuts, cuts[1:], strict=False)),
                ServeSettings(pages, 16, microbatches, batch),
            )
            for row in rows
        ),
    )


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    result = work()
    return result, round(time.process_time() - start, 2)


def serving(machines: int) -> dict[str, Any]:
    layout, pool, workload = plan(machines, 24, 8000, 4), fleet(machines), ServeWorkload(256, 64)
    requests = 240 * len(layout.pipelines)
    forecast = serve_forecast(layout, pool, SHAPE, workload)
    run, cpu_s = timed(lambda: simulate_serving(layout, pool, SHAPE, workload, num_requests=requests))
    return {
        "machines": machines,
        "requests": run.finished,
        "cpu_s": cpu_s,
        "events": run.events,
        "forecast_tokens_per_s": round(forecast.tokens_per_s, 1),
        "gap": round(run.steady_tokens_per_s / forecast.tokens_per_s - 1, 4),
    }


def training(machines: int) -> dict[str, Any]:
    layout, pool, workload = plan(machines, 32, 0, 1), fleet(machines), TrainWorkload(length=512)
    forecast = train_forecast(layout, pool, SHAPE, workload)
    run, cpu_s = timed(lambda: simulate_training(layout, pool, SHAPE, workload))
    return {
        "machines": machines,
        "cpu_s": cpu_s,
        "forecast_step_s": round(forecast.step_s, 2),
        "gap": round(run.step_s / forecast.step_s - 1, 4),
    }


def claimed(found: dict[str, Any]) -> dict[str, float]:
    return {
        "simulate.1.serve": found["serving"][-1]["cpu_s"],
        "simulate.1.train": found["training"][-1]["cpu_s"],
        "simulate.2.serve": percent(max(abs(row["gap"]) for row in found["serving"])),
        "simulate.2.train": percent(max(abs(row["gap"]) for row in found["training"])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=RESULTS / f"simulator-{datetime.now(UTC):%Y-%m-%d}.json")
    options = parser.parse_args()
    result: dict[str, Any] = {
        "method": (__doc__ or "").strip(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": machine(),
        "load_before": [round(load, 1) for load in os.getloadavg()],
    }
    for name, measure in (("serving", serving), ("training", training)):
        result[name] = []
        for machines in MACHINES:
            result[name].append(measure(machines))
            print(name, result[name][-1], flush=True)
    result["claims"] = claims(claimed(result), machine())
    options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
