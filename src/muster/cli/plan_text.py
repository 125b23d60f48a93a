"""An answer as text for a person: stages, forecast, bottleneck. Knows no search."""

from collections import Counter
from collections.abc import Iterator, Sequence
from math import isfinite

from muster.cli.figures import dollars, number, seconds, several, share
from muster.cli.output import out, plain, show_facts, show_table
from muster.cli.plan_record import cost_record, used_machines
from muster.cli.plan_stages import MAX_ROWS, RIGHT, stage_rows
from muster.cli.planning import Answer, Question
from muster.cost.profit import electricity_per_hour
from muster.plan.found import LOOSE
from muster.plan.offload.words import policies_in_words
from muster.plan.runnable import RUNS, beyond
from muster.plan.words import bytes_in_words
from muster.spec.forecast import ServeForecast, TrainForecast
from muster.spec.plan import Plan, ServeSettings
from muster.spec.pool import Pool
from muster.spec.workload import ServeWorkload, TrainWorkload

WANTED = {
    "throughput": "the most tokens per second",
    "cost": "the most tokens per dollar",
    "slo": "the most requests within the deadline",
    "latency": "the shortest request",
    "train": "the shortest training step",
    "dtfm": "the least communication in a training step, by DT-FM's equations",
}


def show_answer(question: Question, answer: Answer) -> None:
    out.print(plain(headline(question)), style="bold")
    out.print(plain(f"{asked(question.workload)} Wanted: {WANTED[question.objective]}."), style="dim")
    stages = answer.forecast.stages if answer.forecast else ()
    columns, rows = stage_rows(question.pool, answer.plan, stages)
    out.print()
    show_table("", columns, rows[:MAX_ROWS], right=RIGHT)
    if len(rows) > MAX_ROWS:
        out.print(f"and {several(len(rows) - MAX_ROWS, 'row')} more; --json has everything", style="dim")
    out.print()
    show_facts(facts(question, answer))
    if answer.forecast is not None:
        out.print(plain(f"\nBottleneck: {answer.forecast.bottleneck}"))
    if not answer.finished:
        out.print("[yellow]The search was cut short; this is the best plan that it had found.[/yellow]")


def headline(question: Question) -> str:
    shape, pool = question.shape, question.pool
    devices = sum(node.device_count for node in pool.nodes)
    counted = several(len(pool.nodes), "machine")
    counted += f", {several(devices, 'device')}" if devices != len(pool.nodes) else ""
    size = bytes_in_words(shape.weight_bytes(0, shape.num_layers))
    return f"{shape.name}, {shape.num_layers} layers, {size} in {shape.dtype}, on {pool.name or 'a pool'}: {counted}"


def asked(workload: ServeWorkload | TrainWorkload) -> str:
    if isinstance(workload, TrainWorkload):
        return f"Training: {workload.sequences:,} texts of {workload.length:,} tokens a step."
    many = "" if workload.requests_per_s == 1 else "s"
    rate = f"{number(workload.requests_per_s)} request{many} a second" if workload.requests_per_s else "offline"
    rate += f", {several(workload.concurrency, 'request')} at a time" if workload.concurrency else ""
    by = f", each within {seconds(workload.deadline_s)}" if workload.deadline_s else ""
    return f"Serving {rate}{by}; prompts of {workload.prompt_tokens} tokens, answers of {workload.output_tokens}."


def facts(question: Question, answer: Answer) -> Iterator[tuple[str, str]]:
    forecast = answer.forecast
    if isinstance(forecast, ServeForecast):
        yield from _serving(question.serve, forecast)
        for name, words in policies_in_words(answer.plan, question.pool):
            yield f"kept by {name}", words
        if question.objective == "latency" and answer.score is not None:
            yield "alone", f"{seconds(answer.score)} for a request that has the pool to itself"
        yield from _in_flight([pipeline.serve for pipeline in answer.plan.pipelines])
    elif isinstance(forecast, TrainForecast):
        yield "step", _step(forecast)
        yield "tokens", f"{number(forecast.tokens_per_s)} a second"
        if answer.plan.codecs:
            yield "compressed", _codecs(answer.plan)
    if answer.dtfm is not None:
        cost = answer.dtfm
        parts = f"{cost.data_parallel_s:.3f} s gradients + {cost.pipeline_s:.3f} s pipeline"
        yield "by DT-FM", f"{cost.cost_s:.3f} s of communication a step: {parts}"
    used = used_machines(question.pool, answer.plan)
    yield from _money(used, forecast)
    idle = [node for node in question.pool.nodes if node not in used.nodes]
    standby = [node.name for node in idle if node.id in answer.plan.standbys]
    if standby:
        yield "standing by", f"{_some(standby)}: to take over where a machine is lost"
    if left_out := [node.name for node in idle if node.id not in answer.plan.standbys]:
        yield "not used", f"{_some(left_out)}: the plan is no better with {'it' if len(left_out) == 1 else 'them'}"
    if not answer.plan.trains:
        yield "runs", _runs(answer.plan)
    if answer.score is not None:
        yield "search", _search(answer)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _serving(workload: ServeWorkload, forecast: ServeForecast) -> Iterator[tuple[str, str]]:
    more = f", of {number(forecast.capacity_tokens_per_s)} that it could" if workload.requests_per_s else ""
    yield "tokens", f"{number(forecast.tokens_per_s)} a second{more}"
    keeps_up = isfinite(forecast.request_s)
    yield "first token", f"after {seconds(forecast.time_to_first_token_s)}" if keeps_up else "later and later"
    yield "next tokens", f"one every {seconds(forecast.seconds_per_token)} of each request"
    yield "a request", seconds(forecast.request_s) if keeps_up else "longer and longer: the queue never ends"
    if forecast.attainment is not None and workload.deadline_s:
        yield "deadline", f"{share(forecast.attainment)} of requests within {seconds(workload.deadline_s)}"


def _in_flight(works: Sequence[ServeSettings]) -> Iterator[tuple[str, str]]:
    microbatches = sum(work.num_microbatches for work in works)
    batch = _span([work.batch for work in works if work.batch], "sequence")
    of = f" of {batch}" if batch else ""
    chunk = _span([work.prefill_tokens for work in works if work.prefill_tokens], "prompt token")
    most = f", at most {chunk} in a step" if chunk else ""
    yield "in flight", f"{several(microbatches, 'microbatch', 'microbatches')}{of}{most}"
    tokens = sum(work.cache_tokens for work in works)
    swapped = sum(work.swap_pages * work.page_size for work in works)
    swap = f", {swapped:,} of them to swap host memory through" if swapped else ""
    yield "cache", f"room for {tokens:,} tokens on the devices{swap}"


def _span(values: Sequence[int], noun: str) -> str:
    if not values or min(values) == max(values):
        return several(values[0], noun) if values else ""
    return f"{min(values)} to {max(values)} {noun}s"


def _step(forecast: TrainForecast) -> str:
    parts = f"{seconds(forecast.pipeline_s)} until the last microbatch is back"
    rest = f", {seconds(forecast.exchange_s)} gradients and optimizer that nothing hides" if forecast.exchange_s else ""
    return f"{seconds(forecast.step_s)}: {parts}{rest}"


def _codecs(plan: Plan) -> str:
    """Which codecs the links carry, and what share of the values' energy is lost on the way."""
    counted = Counter(link.codec for link in plan.codecs)
    parts = [
        f"{several(count, 'direction')} of links by {codec.name}, which loses {share(codec.distortion)} of the values"
        for codec, count in counted.most_common()
    ]
    return "; ".join(parts)


def _money(used: Pool, forecast: ServeForecast | TrainForecast) -> Iterator[tuple[str, str]]:
    cost = cost_record(used, forecast)
    per_hour, per_million = cost["dollars_per_hour"], cost["dollars_per_million_tokens"]
    if per_hour is None:
        yield "money", "unknown: not every machine has a price_per_hour"
    else:
        each = f", {dollars(per_million)} per million tokens" if per_million is not None else ""
        power = electricity_per_hour(used)
        with_power = f", {dollars(power)} of it electricity" if power else ""
        yield "money", f"{dollars(per_hour)} an hour{with_power}{each}"
    if cost["watts"]:
        joule = f", {number(cost['tokens_per_joule'])} tokens per joule" if cost["tokens_per_joule"] else ""
        yield "power", f"{number(cost['watts'])} W{joule}"


def _runs(plan: Plan) -> str:
    if what := beyond(plan):
        return f"not yet: it has {' and '.join(what)}, and {RUNS}; --runnable plans only that"
    return "on a pool as it is, with `muster serve --plan`"


def _search(answer: Answer) -> str:
    looked = f"{several(answer.evaluations, 'layout')} looked at; " if answer.evaluations else ""
    if answer.gap is None:
        return f"{looked}by how much a plan could be better is not known"
    if answer.gap > LOOSE:
        return f"{looked}no better plan was found; how close that is to the best possible could not be proven"
    best = "no plan is better" if answer.gap <= 1e-9 else f"no plan is more than {share(answer.gap)} better"
    return looked + best
