"""Cases of `pipelines.py` that need no processes: machines that are lost while streams run, and plans to be placed."""

import asyncio
import random
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.random_fleets import drawn
from benchmarks.workload import mixed_requests
from muster.broker.events import PipelineId
from muster.broker.pipelines.job import JobModel, JobOptions, PlannedPipeline
from muster.broker.pipelines.serve import serve_job
from muster.client.events import Progressed
from muster.cost.measured import constants_of
from muster.cost.memory import WorkspaceOptions
from muster.errors import MusterError
from muster.head.pins import SavedPlan, pipelines_of_plan
from muster.model.stage import Stage as ModelStage
from muster.plan.quick.tables import PlanOptions
from muster.plan.serve.options import Pin, ServeOptions
from muster.plan.serve.search import plan_serving
from muster.spec.plan import Plan
from muster.spec.plan_file import PlanFile
from muster.spec.request import Request
from muster.wire.messages.membership import Measured
from tests.broker.actors import Stage, node_id
from tests.flows.live_pool import JOB, LivePool, Machine
from tests.flows.small_models import llama, save_small

MAX_DEGREE = 8
COMPARED = ("num_microbatches", "batch", "prefill_tokens")
"""Of the settings of a plan; its pages may be fewer where a machine lends less than the plan counted on."""
STREAMS, TOKENS = 8, 160
STAGE_LAYERS = 4
ROOM_LAYERS = 3
"""With much cache: a machine has room for its stage, and not for the whole model."""
TWO = tuple(
    PlannedPipeline((Pin(f"machine-{first}", 0, STAGE_LAYERS), Pin(f"machine-{first + 1}", STAGE_LAYERS, 8)))
    for first in (1, 3)
)
"""Of four machines."""


@dataclass
class Stream:
    request: Request
    tokens: list[int] = field(default_factory=list)
    broken: bool = False
    """Whether it was at the pipeline that broke."""


Arrivals = dict[str, dict[int, float]]
"""When the first token of each request came, by the epoch of its pipeline."""


def arrivals(pool: LivePool) -> Arrivals:
    """From now on."""
    found: Arrivals = defaultdict(dict)
    inner = pool.sessions._handle

    def handle(event: Any) -> None:
        if isinstance(event, Progressed) and event.progress.tokens:
            live = pool.sessions.state.live.get(event.progress.request_id)
            if live is not None and live.epoch == event.epoch:
                found[event.progress.request_id].setdefault(event.epoch, time.monotonic())
        inner(event)

    pool.sessions._handle = handle  # type: ignore[method-assign]
    return found


def kills(seeds: int) -> dict[str, Any]:
    """Of two pipelines one loses a machine at a random moment; by turns it is killed and it freezes."""
    with tempfile.TemporaryDirectory() as temporary:
        model = save_small(Path(temporary) / "model", llama())
        options = replace(JOB, planned=TWO)
        with LivePool(Path(temporary), str(model), max_layers=ROOM_LAYERS, options=options, patient=True) as pool:
            requests = mixed_requests(STREAMS, 3, 60, TOKENS, pool.model.shape.vocab_size)
            until_two(pool)
            quiet = pool.ask(requests)
            first_s = arrivals(pool)
            cases = [_case(pool, requests, quiet, seed, first_s) for seed in range(seeds)]
    waits = sorted(wait for case in cases for wait in case["seconds"])
    by_kind = {kind: [w for c in cases if c["kind"] == kind for w in c["seconds"]] for kind in ("killed", "frozen")}
    return {
        "cases": cases,
        "streams": len(waits),
        "median_s": median(waits),
        "p95_s": waits[min(len(waits) - 1, int(0.95 * len(waits)))],
        "median_s_by_kind": {kind: median(found) for kind, found in by_kind.items() if found},
        "differing_tokens": sum(case["differing_tokens"] for case in cases),
    }


def until_two(pool: LivePool) -> None:
    pool.until("two pipelines", lambda: len(pool.routes()) == 2 and len(pool.sessions.state.streams) == 2)


def _case(
    pool: LivePool, requests: Sequence[Request], quiet: dict[str, list[int]], seed: int, first_s: Arrivals
) -> dict[str, Any]:
    until_two(pool)
    draw = random.Random(seed)
    streams = [Stream(replace(request, id=f"{request.id}-{seed}")) for request in requests]

    async def follow(stream: Stream) -> None:
        async for progress in pool.sessions.generate(stream.request):
            stream.tokens += [sampled.token for sampled in progress.tokens]

    async def follow_all() -> None:
        await asyncio.gather(*map(follow, streams))

    following = asyncio.run_coroutine_threadsafe(follow_all(), pool._loop)
    least = draw.randint(4, TOKENS // 3)
    pool.until("tokens of all", lambda: all(len(stream.tokens) >= least for stream in streams))
    broken = draw.choice(pool.routes())
    lost = draw.choice(broken.pipeline.nodes())
    victim = next(one for one in pool.machines if one.id == lost)
    kind, end = ("killed", "frozen")[seed % 2], threading.Event()

    async def lose() -> float:
        for stream in streams:
            live = pool.sessions.state.live.get(stream.request.id)
            stream.broken = live is not None and live.epoch == broken.epoch
        if kind == "frozen":
            _freeze(victim, end)
            return time.monotonic()
        lost_s = time.monotonic()
        await pool._kill(victim)
        return lost_s

    lost_s = pool.run(lose())
    following.result(120)
    end.set()
    if kind == "frozen":
        pool.kill(victim)
    ends = [
        [at_s for epoch, at_s in first_s[stream.request.id].items() if epoch != broken.epoch and at_s > lost_s]
        for stream in streams
        if stream.broken
    ]
    waits = [min(end) - lost_s for end in ends if end]
    differing = sum(
        ours != theirs
        for s in streams
        for ours, theirs in zip(s.tokens, quiet[s.request.id.split("-")[0]], strict=True)
    )
    pool.add_machine(ROOM_LAYERS, name=victim.name)
    return {"seed": seed, "kind": kind, "seconds": [round(wait, 4) for wait in waits], "differing_tokens": differing}


def _freeze(machine: Machine, end: threading.Event) -> None:
    """No step of its stages ends before `end`."""
    for held in machine.worker._stages._held.values():
        runner: Any = held.runner
        stage: ModelStage = (runner._engine if hasattr(runner, "_engine") else runner._follower)._stage
        run = stage.run

        def hang(*arguments: Any, run: Any = run) -> Any:
            end.wait(120)
            return run(*arguments)

        stage.run = hang  # type: ignore[method-assign]


# --- plans ----------------------------------------------------------------------------------------------------------


def fleets(seeds: int) -> dict[str, Any]:
    """Of random fleets, whether the placement is the plan; each device is lent by a process of its own."""
    cases, seed = [], 0
    while len(cases) < seeds:
        if (case := _planned(seed)) is not None:
            cases.append(case)
        seed += 1
    equal = sum(case["equal"] for case in cases)
    return {"cases": cases, "plans": len(cases), "drawn": seed, "equal_share": equal / len(cases)}


def _planned(seed: int) -> dict[str, Any] | None:
    """None where the fleet holds no plan."""
    case = drawn(seed)
    pool = case.larger
    options = ServeOptions(objective=case.objective, max_tensor_parallel=MAX_DEGREE, swap=False)
    try:
        found = plan_serving(case.shape, pool, case.workload, options, constants_of(pool), seed=seed)
    except MusterError:
        return None
    file = PlanFile(case.objective, seed, case.shape, case.workload, pool, found.plan)
    planned = pipelines_of_plan(SavedPlan("plan.lock", file), case.shape)
    model = JobModel(case.shape, "ab" * 32, workspace=WorkspaceOptions())
    job = JobOptions(planned=planned, planning=PlanOptions(min_context=512))
    stage = Stage(jobs=[serve_job(model, options=job)])
    lent = [(node, device) for node in pool.nodes for device in range(node.device_count)]
    for number, (node, device) in enumerate(lent, start=1):
        several = {"name": f"{node.name}-{device}", "island": node.name} if node.device_count > 1 else {}
        stage.join(number, 1.0, **{"name": node.name, **several})
        actor = stage.at(number)
        stage.tell(actor, Measured(device=node.device, free_memory_bytes=node.device.memory_bytes))
    stage.pass_time(10)
    names = {node_id(number): node.id for number, (node, _) in enumerate(lent, start=1)}
    most = max(one.degree for pipeline in found.plan.pipelines for one in pipeline.stages)
    compared = _compared(stage, found.plan, names, case.shape.name)
    return {"seed": seed, "pipelines": len(planned), "largest_degree": most, **compared}


def _compared(stage: Stage, plan: Plan, names: dict[str, str], model: str) -> dict[str, Any]:
    """`names`: of the machine of each device."""
    differences: list[str] = []
    for number, wanted in enumerate(plan.pipelines):
        route = stage.route_of.get(PipelineId(model, number))
        if route is None:
            differences.append(f"{number}: {stage.state.pipelines[PipelineId(model, number)].trouble}")
            continue
        got = route.pipeline
        stages = [({names[node] for node in one.members}, one.degree, one.first, one.last) for one in got.stages]
        if stages != [({one.node}, one.degree, one.first, one.last) for one in wanted.stages]:
            differences.append(f"{number}: stages {stages}")
        # A ring has a step in flight for each stage at least.
        planned = wanted.with_work(num_microbatches=max(len(wanted.stages), wanted.serve.num_microbatches))
        settings = [(name, getattr(got.serve, name), getattr(planned.serve, name)) for name in COMPARED]
        differences += [f"{number}: {name} {is_}, not {was}" for name, is_, was in settings if is_ != was]
    return {"equal": not differences, "differences": differences}
