"""Constants of this machine: a fit per model to the steps of single stages, and what a message costs to a fit of pools.

The pools are calibration runs: equal machines, one request at a time, so that nothing ever waits; what is left of the
measured time between two tokens after computing and travelling is overhead of messages, what is left of the time to the
first token is overhead of the door (HTTP, session). None of them is one of the runs that are forecast.
"""

import asyncio
import json
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.forecast_cases import CALIBRATION, Case
from benchmarks.forecast_models import NAMES, folder_of, shape_in
from benchmarks.forecast_pool import Answered, LivePool, load, start
from benchmarks.forecast_steps import Stages, Timed, measurement, medians, steps_of
from muster.cost.fit import Fit, Measurement, fit, left_out
from muster.cost.pace import Constants, peak_flops_per_s
from muster.cost.work import Work, decode, prefill
from muster.lab.processes import Lab
from muster.link.shaped import load_scenario
from muster.node.measure import measure_device
from muster.sim.steady import serve_forecast
from muster.spec.model_shape import ModelShape
from muster.spec.pool import Device

Say = Callable[[str], None]
ROUNDS, REQUESTS = 2, 3
SPARSE = 10
"""To leave out each measurement in turn would take a thousand fits: every tenth will do."""
ALONE_PER_S = 1e-6
"""A rate at which no request ever meets another."""


@dataclass(frozen=True, slots=True)
class Overheads:
    """What the pool costs beside steps and links."""

    message_s: float
    door_s: float
    """From the client's request to the first stage, and back with the first token, beside the links."""


def calibrate(home: Path, nice: int, say: Say) -> dict[str, Any]:
    """The record that `read` reads."""
    torch.set_num_threads(1)
    device = measure_device(torch.device("cpu"), None, home)
    host = peak_flops_per_s(device, "float32")
    before = load()
    measured = {name: measure_model(folder_of(name, home), device) for name in NAMES}
    fits = {name: fit(steps, host) for name, steps in measured.items()}
    for name, found in fits.items():
        say(f"{name}: {found.constants}, median {found.median_error:.1%}, worst {found.worst_error:.1%}")
    pools = [asyncio.run(alone(case, home, fits[case.model].constants, nice, say)) for case in CALIBRATION]
    return {
        "method": __doc__,
        "device": asdict(device),
        "nice": nice,
        "load_before": before,
        "load_after": load(),
        "models": {name: told(found, left_out(measured[name][::SPARSE], host)) for name, found in fits.items()},
        # What comes with Muster for processors of which nothing more is known (spec/constants.toml).
        "all_models": told(fit([step for steps in measured.values() for step in steps], host), ()),
        "pools": pools,
        "message_s": statistics.median(pool["message_s"] for pool in pools),
        "door_s": statistics.median(pool["door_s"] for pool in pools),
    }


def told(found: Fit, unseen: Sequence[float]) -> dict[str, Any]:
    return json.loads(found.to_json()) | {
        "median_error": found.median_error,
        "worst_error": found.worst_error,
        "median_error_left_out": statistics.median(map(abs, unseen)) if unseen else None,
    }


def read(path: Path) -> tuple[Mapping[str, Constants], Overheads]:
    record = json.loads(path.read_text())
    overheads = Overheads(record["message_s"], record["door_s"])
    kept = ("constants", "residuals", "labels")
    fits = {
        name: Fit.from_json(json.dumps({key: entry[key] for key in kept})) for name, entry in record["models"].items()
    }
    return {name: replace(found.constants, message_s=overheads.message_s) for name, found in fits.items()}, overheads


def measure_model(folder: str, device: Device) -> list[Measurement]:
    """All pure steps of the model, cut into stages of one layer to half of all, at either end and between."""
    shape = shape_in(folder)
    layers, measured = shape.num_layers, []
    for cuts in ((0, 1, layers // 2, layers), (0, layers // 2, layers - 1, layers)):
        found = medians(steps_of(Stages(folder, cuts), ROUNDS))
        works = [(one, work_of(one, shape)) for one in found]
        measured += [measurement(one, shape, device, work) for one, work in works if work is not None]
    return measured


def work_of(one: Timed, shape: ModelShape) -> Work | None:
    """None for a step that mixes decodes and prompts, whose work is not one of the cost model's two."""
    if all(row.length == 1 for row in one.rows):
        context = sum(row.start + 1 for row in one.rows) / len(one.rows)
        return decode(shape, one.first, one.last, len(one.rows), context)
    if len(one.rows) == 1:
        (row,) = one.rows
        return prefill(shape, one.first, one.last, row.length, row.start, int(row.samples))
    return None


async def alone(case: Case, home: Path, constants: Constants, nice: int, say: Say) -> dict[str, Any]:
    """The case's request some times, one after the other on its real pool, against the forecast without overheads."""
    folder = folder_of(case.model, home)
    shape = shape_in(folder)
    with tempfile.TemporaryDirectory() as temporary:
        async with Lab(Path(temporary), case.scenario) as lab:
            pool = await start(lab, folder, shape, case.machines, case.head_region, nice)
            answers, before = [], await pool.busy()
            for seed in range(REQUESTS):
                answers += await pool.ask(case.asked(seed, shape.vocab_size))
            after = await pool.busy()
    workload = replace(case.workload, requests_per_s=ALONE_PER_S)
    forecast = serve_forecast(pool.placed.plan, pool.placed.pool, shape, workload, constants)
    stages = pool.placed.plan.pipelines[0].stages
    hops = len(stages)
    token_s = statistics.median(per_token(answer) for answer in answers)
    first_s = statistics.median(answer.first_s - answer.sent_s for answer in answers)
    message_s = max(0.0, (token_s - forecast.seconds_per_token) / hops)
    door_s = max(0.0, first_s - forecast.time_to_first_token_s - hops * message_s - way_to_head_s(case, pool))
    record = {
        "case": asdict(case),
        "pool": pool.placed.pool_file,
        "stages": [asdict(stage) for stage in stages],
        "token_s": token_s,
        "forecast_token_s": forecast.seconds_per_token,
        "busy_s": [(after[stage.node] - before[stage.node]) / REQUESTS for stage in stages],
        "forecast_step_s": [stage.seconds for stage in forecast.stages],
        "first_s": first_s,
        "forecast_first_s": forecast.time_to_first_token_s,
        "message_s": message_s,
        "door_s": door_s,
        "load": load(),
    }
    say(
        json.dumps(
            {
                key: record[key]
                for key in ("token_s", "forecast_token_s", "busy_s", "forecast_step_s", "message_s", "door_s")
            }
        )
    )
    return record


def per_token(answer: Answered) -> float:
    return (answer.last_s - answer.first_s) / (answer.tokens - 1)


def way_to_head_s(case: Case, pool: LivePool) -> float:
    """From the head to the first stage and back, as the scenario has it."""
    (first,) = (node for node in pool.placed.pool.nodes if node.id == pool.placed.plan.pipelines[0].stages[0].node)
    scenario, head = load_scenario(case.scenario), case.head_region
    return scenario.between(head, first.region).latency_s + scenario.between(first.region, head).latency_s
