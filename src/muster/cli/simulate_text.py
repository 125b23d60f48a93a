"""A simulated run as text for a person: figures beside the forecast's, and what the faults cost. Knows no JSON."""

from collections.abc import Callable, Iterator, Sequence

from muster.cli.figures import gain, number, seconds, several, share
from muster.cli.plan_stages import MOST_ROWS, device
from muster.cli.plan_text import asked, headline
from muster.cli.question import Question, at_once
from muster.cli.show import out, plain, show_facts, show_table
from muster.cli.simulate_record import Simulated
from muster.sim.serve_run import ServeRun
from muster.spec.plan import Plan
from muster.spec.pool import Node


def show_simulated(question: Question, plan: Plan, faults: Sequence[str], made: Simulated) -> None:
    offline = question.serve.requests_per_s is None
    room = at_once(plan) if offline else None
    out.print(plain(headline(question)), style="bold")
    out.print(plain(asked(question.workload)), style="dim")
    if faults:
        out.print(plain(f"Faults: {', '.join(faults)}."), style="dim")
    out.print()
    columns, rows = figures(made, offline)
    show_table("", columns, rows, right=columns[1:])
    out.print()
    show_stages({node.id: node for node in question.pool.nodes}, made.run)
    out.print()
    show_facts(_events(made.run, room))
    if made.undisturbed is not None:
        out.print(plain(f"\n{what_faults_cost(made.run, made.undisturbed)}"))


def figures(made: Simulated, offline: bool) -> tuple[list[str], list[list[str]]]:
    """Simulated, undisturbed (where there were faults) and forecast, side by side.

    Only offline there is a steady rate, between the filling of the pool and its emptying; but all requests wait there
    from the start, so that their times are not those of the forecast, which counts from a request's turn.
    """
    runs = [made.run] + ([made.undisturbed] if made.undisturbed is not None else [])
    heads = ["simulated"] if len(runs) == 1 else ["with faults", "without"]
    forecast = made.forecast
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
        rows.append([label, *(seconds(of(run)) for run in runs), "" if foreseen is None else seconds(foreseen)])
    if made.run.attainment is not None:
        within = [share(run.attainment or 0.0) for run in runs]
        rows.append(["within the deadline", *within, share(made.forecast.attainment or 0.0)])
    return ["", *heads, "forecast"], rows


def show_stages(nodes: dict[str, Node], run: ServeRun) -> None:
    """All of a small plan; of a large one the busiest."""
    busiest = sorted(run.stages, key=lambda stage: -stage.share)[:MOST_ROWS]
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
    if room is not None and len(run.requests) < 2 * room:
        yield "", f"too few to fill the pool for long, which takes {room:,} at once; try --requests {5 * room}"
    if run.preemptions:
        yield "cache full", f"{several(run.preemptions, 'time')} a request gave up its pages and was computed again"
    if run.swapped_pages:
        yield "swapped", f"{run.swapped_pages:,} pages out to host memory and back"
    if run.resubmissions:
        yield "moved", f"{several(run.resubmissions, 'request')} went on elsewhere after a loss"


def what_faults_cost(run: ServeRun, undisturbed: ServeRun) -> str:
    slower = gain(undisturbed.tokens_per_s, run.tokens_per_s)
    late = run.request_quantile(0.99) - undisturbed.request_quantile(0.99)
    never = f", and left {several(run.unfinished, 'request')} without an answer" if run.unfinished else ""
    later = f"the slowest hundredth of requests took {seconds(abs(late))} {'longer' if late >= 0 else 'less'}"
    return f"What the faults cost: tokens per second {slower}, and {later}{never}."
