"""What `muster plan` is asked, put to the planner that answers it. Knows no terminal and no file."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import cast

from muster.cli.pins import read_pin
from muster.cost.codec_table import CODECS
from muster.cost.measured import constants_of
from muster.cost.pace import Constants
from muster.errors import ContextTooLong, DoesNotFit, InvalidRequest, Unsupported
from muster.head.pins import check_layers, over_each_other
from muster.plan.found import Found, Rejected
from muster.plan.serve.options import Objective as ServeObjective
from muster.plan.serve.options import Pin, ServeOptions
from muster.plan.serve.search import plan_serving
from muster.plan.train.dtfm_plan import DtfmFound, dtfm_plan
from muster.plan.train.search import TrainOptions, plan_training
from muster.sim.serve.forecast import serve_forecast
from muster.sim.serve.simulate import simulate_serving
from muster.sim.timeline import Span
from muster.sim.train.forecast import train_forecast
from muster.sim.train.simulate import simulate_training
from muster.spec.forecast import ServeForecast, TrainForecast
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Plan
from muster.spec.pool import NodeId, Pool
from muster.spec.workload import TRAINING, Objective, ServeWorkload, TrainWorkload
from muster.spec.written import suggest

MAX_DRAWN_TOKENS, MAX_DRAWN_REQUESTS = 64, 20_000
"""A timeline shows a few rounds; no more is simulated for it than fills them with a usual mix."""


@dataclass(frozen=True, slots=True)
class Question:
    shape: ModelShape
    pool: Pool
    objective: Objective
    serve: ServeWorkload = field(default_factory=ServeWorkload)
    train: TrainWorkload | None = None
    """None is each planner's own default."""
    pins: tuple[Pin, ...] = ()
    budget_per_hour: float | None = None
    runnable: bool = False
    """Whether only what a pool can run is wanted."""
    compress: bool = False
    """Whether links of a training plan may carry compressed values."""
    replicas: int | None = None
    """Of DT-FM's objective; None leaves the count to the planner, likewise `stages`."""
    stages: int | None = None
    seed: int = 0
    effort: int | None = None
    """Most layouts that a search looks at; None is the planner's own budget."""
    narrower: tuple[ModelShape, ...] = ()
    """The model in the dtypes to plan in where the machines cannot hold it in that of `shape`."""

    @property
    def constants(self) -> Constants:
        """Fitted to the kind of devices that the pool is made of, if they are all of one."""
        return constants_of(self.pool)

    @property
    def workload(self) -> ServeWorkload | TrainWorkload:
        """The one that the objective is about."""
        return (self.train or TrainWorkload()) if self.objective in TRAINING else self.serve


@dataclass(frozen=True, slots=True)
class Answer:
    plan: Plan
    forecast: ServeForecast | TrainForecast
    score: float | None = None
    """On the objective; None for a plan that was not searched for."""
    bound: float | None = None
    """No plan has a better score; None where nothing is known."""
    gap: float | None = None
    rejected: tuple[Rejected[ServeForecast | TrainForecast], ...] = field(default=())
    evaluations: int = 0
    finished: bool = True
    """False if the search was cut short."""
    seconds: float = 0.0
    """That the search took."""
    dtfm: DtfmFound | None = None


def answer(question: Question, out_of_time: Callable[[], bool] = lambda: False) -> Answer:
    """Raises what the planners raise: `DoesNotFit`, `InvalidRequest`, `PoolUnavailable`."""
    started = perf_counter()
    if isinstance(question.workload, ServeWorkload):
        check_serves(question.shape, question.workload)
    search = {"dtfm": _dtfm, "train": _train}.get(question.objective, _serve)
    return replace(search(question, out_of_time), seconds=perf_counter() - started)


def answer_in_dtype(question: Question, out_of_time: Callable[[], bool]) -> tuple[Question, Answer]:
    """In the first dtype in which the machines can hold the model, be it in host memory or on disk.

    Raises as `answer` does, of the last one.
    """
    try:
        return question, answer(question, out_of_time)
    except DoesNotFit as error:
        if not question.narrower:
            return question, _elsewhere(question, error, out_of_time)
    shape, *narrower = question.narrower
    return answer_in_dtype(replace(question, shape=shape, narrower=tuple(narrower)), out_of_time)


def _elsewhere(question: Question, error: DoesNotFit, out_of_time: Callable[[], bool]) -> Answer:
    """With a part outside the devices, where nothing else fits; raises `error` where that is not to be planned."""
    from muster.plan.offload.serve import lends_elsewhere, plan_offload  # scipy, which takes half a second

    plain = not (question.pins or question.runnable or question.budget_per_hour or question.serve.requests_per_s)
    if question.objective != "throughput" or not plain or not lends_elsewhere(question.pool):
        raise error
    started = perf_counter()
    try:
        found = plan_offload(
            question.shape, question.pool, question.serve, constants=question.constants, out_of_time=out_of_time
        )
    except DoesNotFit:
        raise error from None  # more devices help a pool of which nothing is large enough
    return replace(_answer(found), seconds=perf_counter() - started)


def check_serves(shape: ModelShape, workload: ServeWorkload) -> None:
    """Raises `InvalidRequest` on a model that generates nothing, and on requests beyond its context."""
    if not any(shape.kv_bytes_per_token):
        raise Unsupported(
            f"{shape.name} reads text and writes none; plan its training with --objective train.", "model"
        )
    tokens = workload.prompt_tokens + workload.output_tokens
    if tokens > shape.max_context:
        raise ContextTooLong(
            f"{workload.prompt_tokens} prompt and {workload.output_tokens} output tokens are more than the "
            f"{shape.max_context} that {shape.name} takes; ask for less.",
            "prompt_tokens",
        )


def forecast_of(question: Question, plan: Plan) -> ServeForecast | TrainForecast:
    if plan.trains:
        return train_forecast(
            plan, question.pool, question.shape, question.train or TrainWorkload(), question.constants
        )
    return serve_forecast(plan, question.pool, question.shape, question.serve, question.constants)


def spans_of(question: Question, plan: Plan) -> tuple[Span, ...]:
    """A while of the plan at work, for a timeline: one step, or more requests than run at once, of several lengths."""
    if plan.trains:
        workload = question.train or TrainWorkload()
        return simulate_training(
            plan, question.pool, question.shape, workload, constants=question.constants, timeline=True
        ).spans
    if plan.offloads:
        return ()  # whole blocks have a closed form and no events
    run = simulate_serving(
        plan,
        question.pool,
        question.shape,
        replace(question.serve, output_tokens=min(question.serve.output_tokens, MAX_DRAWN_TOKENS)),
        num_requests=min(4 * at_once(plan), MAX_DRAWN_REQUESTS),
        spread=0.5,
        constants=question.constants,
        seed=question.seed,
        timeline=True,
    )
    return run.spans


def at_once(plan: Plan) -> int:
    """Requests that a full pool works on."""
    return sum(pipeline.serve.num_microbatches * max(1, pipeline.serve.batch) for pipeline in plan.pipelines)


def _serve(question: Question, out_of_time: Callable[[], bool]) -> Answer:
    options = ServeOptions(
        objective=cast(ServeObjective, question.objective),
        budget_per_hour=question.budget_per_hour,
        pins=question.pins,
    )
    if question.effort is not None:
        options = replace(options, evaluations=question.effort)
    if question.runnable and question.shape.degrees is None:
        options = replace(options, max_tensor_parallel=1)  # whether it can be cut, nobody knows before it is loaded
    found = plan_serving(
        question.shape,
        question.pool,
        question.serve,
        options,
        question.constants,
        seed=question.seed,
        out_of_time=out_of_time,
    )
    return _answer(found)


def _train(question: Question, out_of_time: Callable[[], bool]) -> Answer:
    options = TrainOptions(codecs=CODECS) if question.compress else TrainOptions()
    if question.effort is not None:
        options = replace(options, evaluations=question.effort)
    workload = question.train or TrainWorkload()
    found = plan_training(
        question.shape,
        question.pool,
        workload,
        options,
        question.constants,
        seed=question.seed,
        out_of_time=out_of_time,
    )
    return _answer(found)


def _answer(found: Found[ServeForecast] | Found[TrainForecast]) -> Answer:
    """Of either search."""
    return Answer(
        plan=found.plan,
        forecast=found.forecast,
        score=found.score,
        bound=_finite(found.bound),
        gap=_finite(found.gap),
        rejected=found.alternatives,
        evaluations=found.evaluations,
        finished=found.finished,
    )


def _dtfm(question: Question, out_of_time: Callable[[], bool]) -> Answer:
    found = dtfm_plan(
        question.shape,
        question.pool,
        question.train,
        replicas=question.replicas,
        stages=question.stages,
        seed=question.seed,
        out_of_time=out_of_time,
    )
    return Answer(
        plan=found.plan,
        forecast=train_forecast(found.plan, question.pool, question.shape, found.workload, question.constants),
        score=found.cost_s,
        bound=found.bound_s,
        gap=_finite(found.gap),
        finished=found.finished,
        dtfm=found,
    )


def _finite(value: float) -> float | None:
    return value if abs(value) != float("inf") else None


def read_pins(words: Sequence[str], pool: Pool, shape: ModelShape) -> tuple[Pin, ...]:
    """`ada=0-19` and `bob=20`, layers counted from 0 and both ends meant.

    Raises `InvalidRequest` on a pin that is none: unreadable, of no machine, beyond the layers, or over another.
    """
    pins = [_read_pin(word, pool, shape) for word in words]
    for index, one in enumerate(pins):
        for other in pins[:index]:
            both = range(max(one.first, other.first), min(one.last, other.last))
            if both and one.node != other.node:
                raise over_each_other(both[0], _name(pool, other.node), _name(pool, one.node))
    return tuple(pins)


def _read_pin(word: str, pool: Pool, shape: ModelShape) -> Pin:
    pin = read_pin(word)
    node = find_node(pin.node, pool, "--pin")
    check_layers(pin, shape)
    return replace(pin, node=node)


def find_node(name: str, pool: Pool, option: str) -> NodeId:
    """A machine by its name or by the beginning of its id. Raises `InvalidRequest` that names the option."""
    found = [node.id for node in pool.nodes if node.name == name]
    found = found or [node.id for node in pool.nodes if node.id.startswith(name)]
    if len(found) == 1:
        return found[0]
    if found:
        raise InvalidRequest(f"{option} {name} could be any of {len(found)} machines; give its whole id.", option[2:])
    known = suggest(name, [node.name for node in pool.nodes][:50])
    raise InvalidRequest(f"{option} names {name!r}, which is no machine of the pool; {known}", option[2:])


def _name(pool: Pool, node_id: str) -> str:
    return next(node.name for node in pool.nodes if node.id == node_id)
