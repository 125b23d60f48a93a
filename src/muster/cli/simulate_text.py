"""A simulated run as text for a person: figures beside the forecast's, and what the faults cost. Knows no JSON."""

from collections.abc import Callable, Iterator, Sequence
from math import isfinite

from muster.cli.figures import gain, number, seconds, several, share
from muster.cli.output import out, plain, show_facts, show_table
from muster.cli.plan_stages import MAX_ROWS, device
from muster.cli.plan_text import asked, headline
from muster.cli.planning import Question, at_once
from muster.cli.simulate_record import Simulated
from muster.sim.serve.result import ServeRun
from muster.sim.train.simulate import TrainRun
from muster.spec.forecast import ServeForecast, TrainForecast
from muster.spec.plan import Plan
from muster.spec.pool import Node
from muster.spec.workload import ServeWorkload

NOTHING = "nothing; perhaps the run had ended before them"


def show_simulated(question: Question, plan: Plan, faults: Sequence[str], made: Simulated) -> None:
    out.print(plain(headline(question)), style="bold")
    out.print(plain(asked(question.workload)), style="dim")
    if faults:
        out.print(plain(f"Faults: {', '.join(faults)}."), style="dim")
    out.print()
    nodes = {node.id: node for node in question.pool.nodes}
    if isinstance(made.run, TrainRun):
        show_training(nodes, made)
    else:
        show_serving(nodes, plan, question.serve, made)


def show_serving(nodes: dict[str, Node], plan: Plan, workload: ServeWorkload, made: Simulated) -> None:
    run, before, forecast = made.run, made.undisturbed, made.forecast
    assert isinstance(run, ServeRun), "a plan for serving runs as such"
    assert isinstance(forecast, ServeForecast), "a plan for serving runs as such"
    undisturbed = before if isinstance(before, ServeRun) else None
    offline = workload.requests_per_s is None
    columns, rows = figures(run, undisturbed, forecast, offline)
    show_table("", columns, rows, right=columns[1:])
    out.print()
    show_stages(nodes, run)
    out.print()
    show_facts(_events(run, at_once(plan) if offline else None))
    if undisturbed is not None:
        out.print(plain(f"\n{what_faults_cost(run, undisturbed)}"))


def figures(
    run: ServeRun, undisturbed: ServeRun | None, forecast: ServeForecast, offline: bool
) -> tuple[list[str], list[list[str]]]:
    """Simulated, undisturbed (where there were faults) and forecast, side by side.

    Only offline there is a steady rate, between the filling of the pool and its emptying; but all requests wait there
    from the start, so that their times are not those of the forecast, which counts from a request's turn.
    """
    runs = [run] + ([undisturbed] if undisturbed is not None else [])
    heads = ["simulated"] if len(runs) == 1 else ["with faults", "without"]
    whole, steady = ([number(getattr(run, rate)) for run in runs] for rate in ("tokens_per_s", "steady_tokens_per_s"))
    rows = [["tokens per second", *whole, "" if offline else number(forecast.tokens_per_s)]]
    rows += [["once it is full", *steady, number(forecast.tokens_per_s)]] if offline else []
    times: tuple[tuple[str, Callable[[ServeRun], float], float | None], ...] = (
        (
            "first token, mean",
            lambda run: run.time_to_first_token_s,
            None if offline else forecast.time_to_first_token_s,
        ),
        ("first token, p99", lambda run: run.first_token_quantile(0.99), None),
        ("between tokens", lambda run: run.seconds_per_token, forecast.seconds_per_token),
        ("request, mean", lambda run: run.request_s, None if offline else forecast.request_s),
        ("request, p50", lambda run: run.request_quantile(0.5), None),
        ("request, p99", lambda run: run.request_quantile(0.99), None),
    )
    for label, of, foreseen in times:
        rows.append([label, *(_seconds(of(run)) for run in runs), "" if foreseen is None else seconds(foreseen)])
    if run.attainment is not None:
        within = [share(one.attainment or 0.0) for one in runs]
        rows.append(["within the deadline", *within, share(forecast.attainment or 0.0)])
    return ["", *heads, "forecast"], rows


def _seconds(value: float) -> str:
    """Of what never came there is no time."""
    return seconds(value) if isfinite(value) else "never"


def show_stages(nodes: dict[str, Node], run: ServeRun) -> None:
    """All of a small plan; of a large one the busiest."""
    busiest = sorted(run.stages, key=lambda stage: -stage.share)[:MAX_ROWS]
    shown = [stage for stage in run.stages if stage in busiest]
    rows = [
        [str(stage.pipeline + 1), nodes[stage.node].name, device(nodes[stage.node]), share(stage.share), each]
        for stage, each in ((stage, seconds(stage.seconds)) for stage in shown)
    ]
    show_table("", ["pipeline", "machine", "device", "busy", "a step"], rows, right=("pipeline", "busy", "a step"))
    if len(shown) < len(run.stages):
        out.print(f"and {several(len(run.stages) - len(shown), 'stage')} that were less busy", style="dim")


def _events(run: ServeRun, room: int | None) -> Iterator[tuple[str, str]]:
    lost = f", {run.unfinished:,} never answered" if run.unfinished else ""
    yield "requests", f"{run.finished:,} answered in {seconds(run.duration_s)}{lost}"
    if room is not None and not run.unfinished and len(run.requests) < 2 * room:
        yield "", f"too few to fill the pool for long, which takes {room:,} at once; try --requests {5 * room}"
    if run.preemptions:
        yield "cache full", f"{several(run.preemptions, 'time')} a request gave up its pages and was computed again"
    if run.swapped_pages:
        yield "swapped", f"{run.swapped_pages:,} pages out to host memory and back"
    if run.resubmissions:
        yield "moved", f"{several(run.resubmissions, 'request')} lost their pipeline, to go on where there is another"


def what_faults_cost(run: ServeRun, undisturbed: ServeRun) -> str:
    if run.requests == undisturbed.requests:
        return f"What the faults cost: {NOTHING}."
    slower = gain(undisturbed.tokens_per_s, run.tokens_per_s)
    if run.unfinished:
        lost = f"{run.unfinished:,} of {several(len(run.requests), 'request')} never got an answer"
        why = "nobody was left who could take the place of a machine that went; the simulation plans nothing anew"
        return f"What the faults cost: tokens per second {slower}, and {lost}: {why}."
    late = run.request_quantile(0.99) - undisturbed.request_quantile(0.99)
    later = f"the slowest hundredth of requests took {seconds(abs(late))} {'longer' if late >= 0 else 'less'}"
    return f"What the faults cost: tokens per second {slower}, and {later}."


def show_training(nodes: dict[str, Node], made: Simulated) -> None:
    runs = [run for run in (made.run, made.undisturbed) if isinstance(run, TrainRun)]
    forecast = made.forecast
    assert isinstance(forecast, TrainForecast), "a plan for training runs as such"
    heads = ["simulated"] if len(runs) == 1 else ["with faults", "without"]
    rows = [
        ["tokens per second", *(number(run.tokens_per_s) for run in runs), number(forecast.tokens_per_s)],
        ["last step", *(seconds(run.step_s) for run in runs), seconds(forecast.step_s)],
        ["until the last microbatch", *(seconds(run.pipeline_s) for run in runs), seconds(forecast.pipeline_s)],
        ["gradients and optimizer", *(seconds(run.exchange_s) for run in runs), seconds(forecast.exchange_s)],
    ]
    show_table("", ["", *heads, "forecast"], rows, right=[*heads, "forecast"])
    out.print()
    _training_stages(nodes, runs[0])
    out.print()
    lost = f", {several(runs[0].lost_steps, 'step')} lost and begun again" if runs[0].lost_steps else ""
    show_facts([("steps", f"{several(runs[0].steps, 'step')} in {seconds(runs[0].duration_s)}{lost}")])
    if len(runs) == 2:
        later = runs[0].duration_s - runs[1].duration_s
        cost = f"{seconds(abs(later))} {'more' if later > 0 else 'less'} for the run" if later else NOTHING
        out.print(plain(f"\nWhat the faults cost: {cost}."))


def _training_stages(nodes: dict[str, Node], run: TrainRun) -> None:
    busiest = sorted(run.stages, key=lambda stage: -stage.share)[:MAX_ROWS]
    shown = [stage for stage in run.stages if stage in busiest]
    rows = [
        [str(stage.pipeline + 1), nodes[stage.node].name, share(stage.share), str(stage.in_flight)] for stage in shown
    ]
    show_table(
        "", ["pipeline", "machine", "busy", "microbatches held"], rows, right=("pipeline", "busy", "microbatches held")
    )
    if len(shown) < len(run.stages):
        out.print(f"and {several(len(run.stages) - len(shown), 'stage')} that were less busy", style="dim")
