"""One run: the pool is started, its forecast is made, then the requests are sent and measured. Judges nothing."""

import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.forecast_cases import Case
from benchmarks.forecast_constants import Overheads, way_to_head_s
from benchmarks.forecast_door import simulated
from benchmarks.forecast_models import folder_of, shape_in
from benchmarks.forecast_pool import Answered, Asked, LivePool, PlacedAnew, load, start
from muster.cost.pace import Constants
from muster.lab.processes import Lab
from muster.sim.serve.forecast import serve_forecast
from muster.spec.model_shape import ModelShape

Figures = dict[str, float]
REPETITIONS = 3
ATTEMPTS = 4
"""A head that finds a better plan meanwhile makes a new pool of it: that one is forecast and measured."""


async def run(case: Case, home: Path, constants: Constants, overheads: Overheads, nice: int) -> dict[str, Any]:
    """The whole record of one run, whatever came of it."""
    folder = folder_of(case.model, home)
    shape = shape_in(folder)
    record: dict[str, Any] = {"case": asdict(case), "load_before": load(), "placed_anew": 0}
    with tempfile.TemporaryDirectory() as temporary:
        async with Lab(Path(temporary), case.scenario) as lab:
            pool = await start(lab, folder, shape, case.machines, case.head_region, nice)
            for attempt in range(ATTEMPTS):
                seeds = range(attempt * REPETITIONS, (attempt + 1) * REPETITIONS)
                asked = [case.asked(seed, shape.vocab_size) for seed in seeds]
                record |= describe(pool)
                record["forecast"] = forecast(case, pool, shape, constants, overheads, asked[0])
                try:
                    record["repetitions"] = [await repeat(pool, requests) for requests in asked]
                    break
                except PlacedAnew:
                    record["placed_anew"] += 1
                    await pool.settled()
    simulated = record["forecast"]["simulated"]
    record["measured"] = {name: statistics.median(one[name] for one in record["repetitions"]) for name in simulated}
    record["error"] = {name: simulated[name] / measured - 1 for name, measured in record["measured"].items()}
    return record | {"load_after": load()}


def describe(pool: LivePool) -> dict[str, Any]:
    placed = pool.placed
    return {"pool": placed.pool_file, "plan": asdict(placed.plan)}


def forecast(
    case: Case, pool: LivePool, shape: ModelShape, constants: Constants, overheads: Overheads, asked: Sequence[Asked]
) -> dict[str, Any]:
    """By the simulator, which is what counts, and by the closed form beside it."""
    placed = pool.placed
    # The client stands beside the head: every answer comes later by the door and the way to the first stage and back.
    beside_s = overheads.door_s + way_to_head_s(case, pool)
    ring = (placed.plan, placed.pool, shape, case.workload, constants)
    figures, done = simulated(asked, *ring, overheads.request_s, beside_s)
    steady = serve_forecast(placed.plan, placed.pool, shape, case.workload, constants)
    return {
        "simulated": figures,
        "closed_form": {
            "tokens_per_s": steady.tokens_per_s,
            "capacity_tokens_per_s": steady.capacity_tokens_per_s,
            "first_token_s": steady.time_to_first_token_s + beside_s,
            "request_s": steady.request_s + beside_s,
        },
        "busy_s": [stage.share * done.duration_s for stage in done.stages],
        "step_s": [stage.seconds for stage in done.stages],
        "preemptions": done.preemptions,
        "bottleneck": steady.bottleneck,
    }


async def repeat(pool: LivePool, asked: Sequence[Asked]) -> dict[str, Any]:
    before, began_s, cpu_s = await pool.worked(), time.perf_counter(), pool.cpu_seconds()
    answers = await pool.ask(asked)
    wall_s, cpu_s = time.perf_counter() - began_s, pool.cpu_seconds() - cpu_s
    after = await pool.worked()
    stages = [stage.node for stage in pool.placed.plan.pipelines[0].stages]
    worked = [after[node].since(before[node]) for node in stages]
    return measured(answers) | {
        "own_cores": cpu_s / wall_s,
        "busy_s": [one.busy_s for one in worked],
        "steps": [one.steps for one in worked],
        "errors": [answer.error for answer in answers if answer.error],
        "answers": [[round(a.sent_s, 4), round(a.first_s, 4), round(a.last_s, 4), a.tokens] for a in answers],
        **load(),
    }


def measured(answers: Sequence[Answered]) -> Figures:
    done = [answer for answer in answers if not answer.error]
    return {
        "tokens_per_s": sum(answer.tokens for answer in done) / max(answer.last_s for answer in done),
        "first_token_s": statistics.mean(answer.first_s - answer.sent_s for answer in done),
        "request_s": statistics.mean(answer.last_s - answer.sent_s for answer in done),
    }
