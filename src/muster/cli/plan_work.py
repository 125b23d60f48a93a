"""What `muster plan` does once its words are understood: search or keep to a lock, explain, write files, show."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from muster.cli.explain_text import show_explanation
from muster.cli.find_head import find_head
from muster.cli.interruptible import interruptible
from muster.cli.live_pool import live_pool
from muster.cli.one_more import one_more
from muster.cli.output import err, plain, show_json
from muster.cli.plan_inputs import check_outputs, find_pool, find_shapes, write_text
from muster.cli.plan_options import Asked, check_belongs, check_objective, serve_workload, train_workload
from muster.cli.plan_record import plan_file, record
from muster.cli.plan_text import show_answer
from muster.cli.planning import Answer, Question, answer_in_dtype, read_pins, spans_of
from muster.cli.saved_plan import forecast_again, read_plan
from muster.cli.waiting import waiting
from muster.errors import InvalidRequest
from muster.plan.runnable import RUNS, beyond
from muster.plan.serve.options import Pin
from muster.spec.plan_file import PlanFile, to_record, what_changed, why_useless


@dataclass(frozen=True, slots=True)
class Files:
    """What is read or written beside the terminal; None is not wanted."""

    picture: Path | None
    lock: Path | None
    save_pool: Path | None
    pool_text: str
    """The pool as a pool file."""


def plan_as_asked(asked: Asked) -> None:
    """Nothing slow begins before everything that was written has been checked."""
    serve = serve_workload(asked.prompt_tokens, asked.output_tokens, asked.rate, asked.deadline, asked.concurrency)
    objective = check_objective(asked.objective, serve, asked.budget)
    check_belongs(objective, asked)
    train = train_workload(asked)
    check_outputs(asked.picture, asked.lock, asked.save_pool)
    with waiting(f"reading {asked.model} and {asked.pool}", asked.as_json):
        pool, text = find_pool(asked.pool, lambda: live_pool(find_head(asked.head, asked.token, folder=asked.data_dir)))
        shape, *narrower = find_shapes(asked.model, asked.dtype, pool.nodes, asked.few_bits)
    pins = read_pins(asked.pin or (), pool, shape)
    question = Question(
        shape,
        pool,
        objective,
        serve,
        train,
        pins,
        budget_per_hour=asked.budget,
        runnable=asked.runnable,
        compress=asked.compress,
        replicas=asked.replicas,
        stages=asked.stages,
        seed=asked.seed,
        narrower=tuple(narrower),
    )
    carry_out(question, Files(asked.picture, asked.lock, asked.save_pool, text), asked.explain, asked.as_json)


def carry_out(question: Question, files: Files, explain: bool, as_json: bool) -> None:
    if files.save_pool is not None:
        write_text(files.save_pool, files.pool_text)
    with interruptible("planning", as_json) as interrupt:
        question, made = keep_to(files.lock, question) or answer_in_dtype(question, interrupt)
        if made.dtfm is not None:
            question = replace(question, train=made.dtfm.workload)
        more = one_more(question, made, interrupt) if explain else None
    if files.lock is not None and not files.lock.exists():
        write_text(files.lock, dumps(plan_file(question, made.plan)))
    if files.picture is not None:
        with interruptible("drawing", as_json):
            from muster.draw.picture import save_picture  # matplotlib takes a while to import

            spans = spans_of(question, made.plan)
            save_picture(files.picture, made.plan, question.pool, question.shape, made.forecast, spans)
    if as_json:
        show_json(record(question, made, more))
        return
    show_answer(question, made)
    if explain:
        show_explanation(question, made, more or ())


def keep_to(lock: Path | None, question: Question) -> tuple[Question, Answer] | None:
    """The plan of a lock file with a forecast for the pool as it is now; None where there is no file yet.

    Raises `InvalidRequest` on a lock that was made for something else, saying what.
    """
    if lock is None or not lock.exists():
        return None
    held = read_plan(lock)
    same = [shape for shape in (question.shape, *question.narrower) if shape == held.shape]
    question = replace(question, shape=same[0]) if same else question
    reason = why_useless(held, question.shape, question.pool) or _asked_otherwise(held, question)
    if reason:
        raise InvalidRequest(
            f"{lock} does not match: {reason}; delete it to plan anew, or name another file with --lock.", "lock"
        )
    changed = what_changed(held, question.pool)
    if changed:
        err.print(
            plain(f"{lock} is kept to, though {changed}; delete it to plan anew."), style="yellow", soft_wrap=True
        )
    return question, forecast_again(question, held.plan)


def _asked_otherwise(held: PlanFile, question: Question) -> str | None:
    if held.objective != question.objective:
        return f"it was made for the objective {held.objective}, not {question.objective}"
    if question.runnable and (what := beyond(held.plan)):
        return f"it has {' and '.join(what)}, and {RUNS}"
    if held.workload != question.workload:
        return "it was made for another workload"
    for pin in question.pins:
        if not _pinned(held, pin):
            return f"it does not keep layers {pin.first} to {pin.last - 1} on {pin.node}"
    return None


def _pinned(held: PlanFile, pin: Pin) -> bool:
    stages = [stage for pipeline in held.plan.pipelines for stage in pipeline.stages if stage.node == pin.node]
    return any(stage.first <= pin.first and pin.last <= stage.last for stage in stages)


def dumps(file: PlanFile) -> str:
    """Text of a lock file: the same plan, the same bytes."""
    return json.dumps(to_record(file), indent=1) + "\n"
