"""What `muster simulate` does: find or make the plan, run it with and without its faults, show both."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from muster.cli.fault_options import MAX_REQUESTS, read_faults, read_trace
from muster.cli.interruptible import interruptible
from muster.cli.output import show_json
from muster.cli.plan_inputs import find_pool, find_shapes, read_text
from muster.cli.plan_options import check_objective, serve_workload
from muster.cli.planning import Question, answer_in_dtype, check_serves, forecast_of
from muster.cli.saved_plan import forecast_again, read_plan
from muster.cli.simulate_record import Simulated, record
from muster.cli.simulate_text import show_simulated
from muster.errors import DoesNotFit, InvalidRequest, PoolUnavailable
from muster.plan.quick.planner import place
from muster.plan.quick.tables import PlanOptions
from muster.plan.serve.options import ServeOptions
from muster.plan.serve.search import plan_serving
from muster.sim.serve.arrivals import Arrival
from muster.sim.serve.result import ServeRun
from muster.sim.serve.simulate import simulate_serving
from muster.sim.train.simulate import TrainRun, simulate_training
from muster.spec.faults import Fault
from muster.spec.few_bits import AS_STORED, FewBits
from muster.spec.plan import Pipeline, Plan
from muster.spec.plan_file import PlanFile, why_useless
from muster.spec.pool import NodeId, Pool
from muster.spec.workload import Objective, ServeWorkload, TrainWorkload

ANEW_EVALUATIONS = 40
"""Of the search for how a broken pipeline goes on."""
MAX_PASSES = 10_000_000
"""Of a microbatch through a stage, over all steps of a training run: about two minutes' work."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The command line. None is not said."""

    plan: str
    pool: str | None
    objective: Objective | None
    dtype: str | None
    rate: float | None
    deadline: float | None
    prompt_tokens: int | None
    output_tokens: int | None
    requests: int | None
    spread: float
    trace: Path | None
    few_bits: FewBits = AS_STORED
    faults: tuple[str, ...] = ()
    seed: int = 0
    picture: Path | None = None
    steps: int | None = None
    concurrency: int | None = None


def carry_out(asked: Asked, live: Callable[[], tuple[Pool, str]], as_json: bool) -> None:
    if (asked.requests or 0) > MAX_REQUESTS:
        raise InvalidRequest(
            f"--requests {asked.requests} is more than one run simulates; give at most {MAX_REQUESTS:,}.", "requests"
        )
    arrivals = read_trace(asked.trace) if asked.trace else None
    with interruptible("planning", as_json) as interrupt:
        question, plan = _from_file(asked, live) or _from_model(asked, live, interrupt)
    _check_belongs(asked, plan)
    faults = read_faults(asked.faults, question.pool)
    with interruptible("simulating", as_json):
        made = simulated(question, plan, asked, arrivals, faults)
    if asked.picture is not None:
        with interruptible("drawing", as_json):
            from muster.draw.picture import save_picture  # matplotlib takes a while to import

            save_picture(asked.picture, plan, question.pool, question.shape, made.forecast, made.run.spans)
    if as_json:
        show_json(record(question, asked.faults, made))
    else:
        show_simulated(question, plan, asked.faults, made)


def simulated(
    question: Question,
    plan: Plan,
    asked: Asked,
    arrivals: tuple[Arrival, ...] | None,
    faults: tuple[Fault[NodeId], ...],
) -> Simulated:
    """The run, and where there are faults the same without them."""

    def run(these: tuple[Fault[NodeId], ...], timeline: bool) -> ServeRun | TrainRun:
        if plan.trains:
            return _train(question, plan, asked.steps or 1, these, timeline)
        return _serve(question, plan, asked, arrivals, these, timeline)

    made = run(faults, asked.picture is not None)
    return Simulated(forecast_of(question, plan), made, run((), False) if faults else None)


def _train(question: Question, plan: Plan, steps: int, faults: tuple[Fault[NodeId], ...], timeline: bool) -> TrainRun:
    workload = question.train or TrainWorkload()
    passes = steps * sum(len(one.stages) * one.train.num_microbatches for one in plan.pipelines)
    if passes > MAX_PASSES:
        raise InvalidRequest(
            f"{steps:,} steps of this plan send microbatches through stages {passes:,} times, and one run simulates at "
            f"most {MAX_PASSES:,}; give fewer --steps, or plan with fewer --sequences.",
            "steps",
        )
    return simulate_training(
        plan,
        question.pool,
        question.shape,
        workload,
        faults=faults,
        constants=question.constants,
        seed=question.seed,
        steps=steps,
        timeline=timeline,
    )


def _serve(
    question: Question,
    plan: Plan,
    asked: Asked,
    arrivals: tuple[Arrival, ...] | None,
    faults: tuple[Fault[NodeId], ...],
    timeline: bool,
) -> ServeRun:
    if arrivals:
        longest = max(arrivals, key=lambda one: one.prompt_tokens + one.output_tokens)
        check_serves(question.shape, ServeWorkload(longest.prompt_tokens, longest.output_tokens))
    return simulate_serving(
        plan,
        question.pool,
        question.shape,
        question.serve,
        arrivals=arrivals,
        faults=faults,
        constants=question.constants,
        seed=asked.seed,
        num_requests=asked.requests,
        spread=asked.spread,
        timeline=timeline,
        plan_anew=partial(_plan_anew, question),
    )


def _plan_anew(question: Question, pipeline: Pipeline, machines: Pool) -> Pipeline | None:
    """As the head of a pool does; with several devices of a machine, by a short search on what is left."""
    if any(stage.devices != (0,) for stage in pipeline.stages):
        return _searched_anew(question, pipeline, machines)
    try:
        options = PlanOptions(page_size=pipeline.serve.page_size, constants=question.constants)
        anew = place(question.shape, machines, pipeline, options).only_pipeline
    except PoolUnavailable:
        return None
    return anew.with_work(batch=pipeline.serve.batch, prefill_tokens=pipeline.serve.prefill_tokens)


def _searched_anew(question: Question, pipeline: Pipeline, machines: Pool) -> Pipeline | None:
    options = ServeOptions(
        max_replicas=1,
        swap=False,
        page_size=pipeline.serve.page_size,
        evaluations=ANEW_EVALUATIONS,
    )
    offline = replace(question.serve, requests_per_s=None, deadline_s=None)
    # Other devices of its machines may be at work in other pipelines.
    devices: dict[NodeId, tuple[int, ...]] = {}
    for stage in pipeline.stages:
        devices[stage.node] = (*devices.get(stage.node, ()), *stage.devices)
    nodes = (replace(node, device_count=len(devices.get(node.id, range(node.device_count)))) for node in machines.nodes)
    left = replace(machines, nodes=tuple(nodes))
    try:
        found = plan_serving(question.shape, left, offline, options, question.constants, question.seed)
    except (DoesNotFit, PoolUnavailable):
        return None
    anew = found.plan.only_pipeline
    stages = (
        replace(stage, devices=tuple(devices[stage.node][one] for one in stage.devices))
        if stage.node in devices
        else stage
        for stage in anew.stages
    )
    return replace(anew, stages=tuple(stages))


def _check_belongs(asked: Asked, plan: Plan) -> None:
    """Raises `InvalidRequest` on an option that this kind of plan does not look at."""
    of_serving = ("rate", "concurrency", "deadline", "prompt_tokens", "output_tokens", "requests", "spread", "trace")
    trains = plan.trains
    for name in of_serving if trains else ("steps",):
        if getattr(asked, name):
            option, kind = name.replace("_", "-"), "training" if trains else "serving"
            raise InvalidRequest(f"--{option} says nothing to a plan for {kind}; leave it out.", option)


def _from_file(asked: Asked, live: Callable[[], tuple[Pool, str]]) -> tuple[Question, Plan] | None:
    """A plan that was written down, on its own pool or on the one that is named; None if the word is no plan file.

    Raises `InvalidRequest` if the plan does not hold on the pool.
    """
    path = Path(asked.plan).expanduser()
    if not path.is_file() or '"muster_plan"' not in read_text(path, "plan"):
        return None
    held = read_plan(path)
    pool = find_pool(asked.pool, live)[0] if asked.pool else held.pool
    reason = why_useless(held, held.shape, pool)
    if reason:
        raise InvalidRequest(
            f"{path} does not match: {reason}; leave out --pool, or plan for the pool as it is.", "pool"
        )
    question = _question(asked, held, pool)
    return question, forecast_again(question, held.plan).plan


def _question(asked: Asked, held: PlanFile, pool: Pool) -> Question:
    if not isinstance(held.workload, ServeWorkload):
        return Question(held.shape, pool, "train", train=held.workload, seed=asked.seed)
    return Question(held.shape, pool, "throughput", _workload(asked, held.workload), seed=asked.seed)


def _workload(asked: Asked, usual: ServeWorkload) -> ServeWorkload:
    """`usual` with what was said on the command line in its place."""
    return serve_workload(
        asked.prompt_tokens or usual.prompt_tokens,
        asked.output_tokens or usual.output_tokens,
        usual.requests_per_s if asked.rate is None else asked.rate,
        usual.deadline_s if asked.deadline is None else asked.deadline,
        usual.concurrency if asked.concurrency is None else asked.concurrency,
    )


def _from_model(
    asked: Asked, live: Callable[[], tuple[Pool, str]], out_of_time: Callable[[], bool]
) -> tuple[Question, Plan]:
    if asked.pool is None:
        raise InvalidRequest(
            f"{asked.plan} is not a plan that `muster plan --lock` wrote; name one, or a model together with --pool.",
            "plan",
        )
    serve = _workload(asked, ServeWorkload())
    objective = check_objective(asked.objective, serve, None)
    pool, _ = find_pool(asked.pool, live)
    read_faults(asked.faults, pool)  # a mistake in them is said before the search, not after
    shape, *narrower = find_shapes(asked.plan, asked.dtype, pool.nodes, asked.few_bits)
    question = Question(shape, pool, objective, serve, seed=asked.seed, narrower=tuple(narrower))
    question, made = answer_in_dtype(question, out_of_time)
    # DT-FM's objective knows of a workload that is published together with the fleet.
    return (replace(question, train=made.dtfm.workload) if made.dtfm else question), made.plan
