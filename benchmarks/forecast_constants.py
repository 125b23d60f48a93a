"""Constants of this machine: a fit per model to the steps of single stages, and what a pool of processes changes.

The pools are calibration runs, none of them one of the runs that are forecast: equal machines, first a few requests one
at a time, then a dozen at once. A step in a worker, beside other processes, does not take what the same step takes in a
process that does nothing else: by how much more or less, the busy seconds of the requests alone tell, whose steps come
after long pauses, and how much of that is due to the pauses, those of the dozen, with hardly any. What is left of the
time between two tokens of a request alone, after computing and travelling, is overhead of messages, what is left of its
time to the first token that of the door (HTTP, session). How long the dozen keep each other waiting at the door, their
first tokens tell, and into how many steps they fell.
"""

import asyncio
import json
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.forecast_cases import CALIBRATION, Case
from benchmarks.forecast_door import simulated
from benchmarks.forecast_models import NAMES, folder_of, shape_in
from benchmarks.forecast_pool import Answered, Asked, LivePool, PlacedAnew, Worked, load, start
from benchmarks.forecast_steps import Stages, Timed, measurement, medians, steps_of
from muster.cost.fit import Fit, Measurement, fit, left_out
from muster.cost.pace import Constants, host_slowness, peak_flops_per_s
from muster.cost.work import Work, decode, prefill
from muster.lab.processes import Lab
from muster.link.shaped import load_scenario
from muster.node.measure import measure_device
from muster.sim.serve.forecast import serve_forecast
from muster.sim.serve.result import ServeRun
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Pipeline, Plan, ServeSettings, Stage
from muster.spec.pool import Device
from muster.spec.pool_file import parse_pool
from muster.spec.workload import ServeWorkload

Say = Callable[[str], None]
ROUNDS, REQUESTS = 1, 3
BURST = 12
SPARSE = 10
"""To leave out each measurement in turn would take a thousand fits: every tenth will do."""
COLDER_S = tuple(number * 1e-4 for number in range(-10, 21))
WAITS_S = tuple(number * 2.5e-4 for number in range(41))
"""What a pause may cost more among other processes, and for how long a request may keep the head: these are tried."""
ALONE_PER_S = 1e-6
"""A rate at which no request ever meets another."""


@dataclass(frozen=True, slots=True)
class Overheads:
    """What the pool costs beside steps and links."""

    step_s: float
    cold_s: float
    """Of a step in a worker beyond that of the same step alone, at this machine's full speed; as in `Constants`."""
    message_s: float
    door_s: float
    """From the client's request to the first stage, and back with the first token, beside the links."""
    request_s: float
    """For which each request keeps the head, so that those that come together follow each other."""


def calibrate(home: Path, nice: int, say: Say) -> dict[str, Any]:
    """The record that `read` reads."""
    torch.set_num_threads(1)
    device = measure_device(torch.device("cpu"), home)
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
        "overheads": asdict(overheads_of(pools, {name: found.constants for name, found in fits.items()})),
    }


def overheads_of(pools: Sequence[dict[str, Any]], constants: Mapping[str, Constants]) -> Overheads:
    """Medians over the pools, each overhead after those before it are accounted for."""
    after_pauses_s = statistics.median(extra for pool in pools for extra in step_extras_s(pool))
    message_s = max(0.0, statistics.median(message_extra_s(pool) for pool in pools))
    door_s = statistics.median(
        pool["first_s"]
        - pool["forecast_first_s"]
        - pool["way_s"]
        - computing_extra_s(pool)
        - message_s * len(pool["busy_s"])
        for pool in pools
    )
    tried = [Overheads(after_pauses_s - cold_s, cold_s, message_s, max(0.0, door_s), 0.0) for cold_s in COLDER_S]
    known = min(tried, key=lambda overheads: bursts_missed(pools, constants, overheads)[0])
    tried = [replace(known, request_s=wait_s) for wait_s in WAITS_S]
    return min(tried, key=lambda overheads: bursts_missed(pools, constants, overheads)[1])


def bursts_missed(
    pools: Sequence[dict[str, Any]], constants: Mapping[str, Constants], overheads: Overheads
) -> tuple[float, float]:
    """By how much steps of the dozen would be longer or shorter; their first tokens and the number of steps differ."""
    steps, door = 0.0, 0.0
    for pool in pools:
        here = in_a_pool(constants[pool["case"]["model"]], overheads)
        figures, done = burst(pool, here, overheads.request_s, overheads.door_s + pool["way_s"])
        # The head of the ring also counts turns in which nothing could run.
        count = min(pool["burst_steps"])
        pairs = zip(done.stages, pool["burst_busy_s"], strict=True)
        steps += sum(abs(stage.seconds / busy_s * count - 1) for stage, busy_s in pairs)
        first = done.stages[0]
        door += abs(figures["first_token_s"] / pool["burst_first_s"] - 1)
        door += abs(first.share * done.duration_s / first.seconds / count - 1)
    return steps, door


def step_extras_s(pool: dict[str, Any]) -> list[float]:
    """How much longer than forecast a step of a request alone took, at this machine's speed, by stage."""
    rows = zip(pool["busy_s"], pool["forecast_step_s"], pool["slowness"], strict=True)
    return [(busy_s / pool["steps"] - step_s) / slow for busy_s, step_s, slow in rows]


def computing_extra_s(pool: dict[str, Any]) -> float:
    """Of one way round by a request alone, beyond the forecast."""
    return float(sum(pool["busy_s"])) / pool["steps"] - float(sum(pool["forecast_step_s"]))


def message_extra_s(pool: dict[str, Any]) -> float:
    return float(pool["token_s"] - pool["forecast_token_s"] - computing_extra_s(pool)) / len(pool["busy_s"])


def burst(
    record: dict[str, Any], constants: Constants, each_s: float, beside_s: float
) -> tuple[dict[str, float], ServeRun]:
    """The dozen on the pool of the record."""
    stages = tuple(Stage(stage["node"], stage["first"], stage["last"]) for stage in record["plan"]["stages"])
    sizes = (record["plan"][name] for name in ("num_pages", "page_size", "num_microbatches"))
    plan, pool = Plan(record["folder"], (Pipeline(stages, ServeSettings(*sizes)),)), parse_pool(record["pool"])
    workload = ServeWorkload(record["case"]["workload"]["prompt_tokens"], record["case"]["workload"]["output_tokens"])
    asked = [Asked(0.0, (0,) * workload.prompt_tokens, workload.output_tokens)] * BURST
    return simulated(asked, plan, pool, shape_in(record["folder"]), workload, constants, each_s, beside_s)


def told(found: Fit, unseen: Sequence[float]) -> dict[str, Any]:
    return json.loads(found.to_json()) | {
        "median_error": found.median_error,
        "worst_error": found.worst_error,
        "median_error_left_out": statistics.median(map(abs, unseen)) if unseen else None,
    }


def read(path: Path) -> tuple[Mapping[str, Constants], Overheads]:
    record = json.loads(path.read_text())
    overheads = Overheads(**record["overheads"])
    kept = ("constants", "residuals", "labels")
    fits = {
        name: Fit.from_json(json.dumps({key: entry[key] for key in kept})) for name, entry in record["models"].items()
    }
    return {name: in_a_pool(found.constants, overheads) for name, found in fits.items()}, overheads


def in_a_pool(constants: Constants, overheads: Overheads) -> Constants:
    step_s, cold_s = constants.step_s + overheads.step_s, constants.cold_s + overheads.cold_s
    return replace(constants, step_s=max(0.0, step_s), cold_s=max(0.0, cold_s), message_s=overheads.message_s)


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
            while True:
                with suppress(PlacedAnew):
                    worked, burst_worked, answers, together = await ask_alone_and_together(case, pool, shape.vocab_size)
                    break
                await pool.settled()
    workload = replace(case.workload, requests_per_s=ALONE_PER_S)
    forecast = serve_forecast(pool.placed.plan, pool.placed.pool, shape, workload, constants)
    stages = pool.placed.plan.pipelines[0].stages
    devices = {node.id: node.device for node in pool.placed.pool.nodes}
    record = {
        "case": asdict(case),
        "folder": folder,
        "pool": pool.placed.pool_file,
        "stages": [asdict(stage) for stage in stages],
        "steps": case.workload.output_tokens,
        "slowness": [host_slowness(devices[stage.node], constants.host_flops_per_s) for stage in stages],
        "token_s": statistics.median(per_token(answer) for answer in answers),
        "forecast_token_s": forecast.seconds_per_token,
        "busy_s": [worked[stage.node].busy_s / REQUESTS for stage in stages],
        "forecast_step_s": [stage.seconds for stage in forecast.stages],
        "first_s": statistics.median(answer.first_s - answer.sent_s for answer in answers),
        "way_s": way_to_head_s(case, pool),
        "forecast_first_s": forecast.time_to_first_token_s,
        "burst_busy_s": [burst_worked[stage.node].busy_s for stage in stages],
        "burst_steps": [burst_worked[stage.node].steps for stage in stages],
        "burst_first_s": statistics.mean(answer.first_s - answer.sent_s for answer in together),
        "plan": asdict(pool.placed.plan.pipelines[0]),
        "load": load(),
    }
    say(json.dumps({name: value for name, value in record.items() if name.endswith("_s")}))
    return record


async def ask_alone_and_together(
    case: Case, pool: LivePool, vocab_size: int
) -> tuple[dict[str, Worked], dict[str, Worked], list[Answered], list[Answered]]:
    """What the machines did while requests were alone, and during a burst, and both's answers.

    Raises `PlacedAnew`.
    """
    before, answers = await pool.worked(), []
    for seed in range(REQUESTS):
        answers += await pool.ask(case.asked(seed, vocab_size))
    between = await pool.worked()
    together = await pool.ask([case.asked(seed, vocab_size)[0] for seed in range(REQUESTS, REQUESTS + BURST)])
    after = await pool.worked()
    single, burst = ({node: b[node].since(a[node]) for node in b} for a, b in ((before, between), (between, after)))
    return single, burst, answers, together


def per_token(answer: Answered) -> float:
    return (answer.last_s - answer.first_s) / (answer.tokens - 1)


def way_to_head_s(case: Case, pool: LivePool) -> float:
    """From the head to the first stage and back, as the scenario has it."""
    (first,) = (node for node in pool.placed.pool.nodes if node.id == pool.placed.plan.pipelines[0].stages[0].node)
    scenario, head = load_scenario(case.scenario), case.head_region
    return scenario.between(head, first.region).latency_s + scenario.between(first.region, head).latency_s
