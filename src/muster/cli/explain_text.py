"""What `--explain` adds for a person: why, what was rejected, what a machine more would do, break-even. No search."""

from collections.abc import Sequence

from muster.cli.figures import dollars, gain, number, seconds, share
from muster.cli.output import out, plain, show_facts, show_table
from muster.cli.plan_record import OneMore, used_machines
from muster.cli.planning import Answer, Question
from muster.cost.profit import Basis, Sale, bases, break_even_tokens_per_s, sales
from muster.plan.found import Rejected
from muster.plan.runnable import beyond
from muster.spec.forecast import ServeForecast, TrainForecast
from muster.spec.plan import Plan
from muster.spec.pool import Pool
from muster.spec.workload import Objective

UNITS = {
    "throughput": "tokens per second",
    "cost": "tokens per dollar",
    "slo": "within the deadline",
    "latency": "a request",
    "train": "a step",
    "dtfm": "a step",
}


def show_explanation(question: Question, answer: Answer, one_more: Sequence[OneMore]) -> None:
    if answer.plan.explanation:
        _section("Why this plan")
        out.print(plain(answer.plan.explanation))
    # Plans that differ in names only are told once.
    reasons = list(dict.fromkeys(_why(one, answer.plan) for one in answer.rejected))
    if reasons:
        _section("Rejected")
        show_facts((f"{index}.", why) for index, why in enumerate(reasons[:3], start=1))
    if one_more:
        _section("With one machine more")
        rows = [_more(question.objective, answer.score or 0.0, one) for one in one_more]
        show_table("", ["one more", "like", "change", UNITS[question.objective]], rows, right=["change"])
    if isinstance(answer.forecast, ServeForecast):
        show_break_even(used_machines(question.pool, answer.plan), answer.forecast.tokens_per_s)


def _why(other: Rejected[ServeForecast | TrainForecast], chosen: Plan) -> str:
    """And that it could be run, where the plan that was chosen cannot."""
    could = not chosen.trains and beyond(chosen) and not beyond(other.plan)
    return f"{other.why} A pool can run this one." if could else other.why


def _section(title: str) -> None:
    out.print(f"\n[bold]{title}[/bold]")


def _more(objective: Objective, now: float, one: OneMore) -> list[str]:
    kind = f"{one.devices}×{one.device}" if one.devices > 1 else one.device
    where = f"{one.like} in {one.region}" if one.region else one.like
    if not one.plan_uses_it:
        return [kind, where, "none", "would stay idle"]
    return [kind, where, gain(now, one.score), f"{score(objective, now)} → {score(objective, one.score)}"]


def score(objective: Objective, value: float) -> str:
    """A value of the objective in its unit (`UNITS` says which)."""
    if objective == "slo":
        return share(value)
    if objective == "cost":
        return number(value * 3600)
    return number(value) if objective == "throughput" else seconds(value)


def show_break_even(used: Pool, tokens_per_s: float) -> None:
    """The profit line: tokens per second at which sales pay for the machines (DeServe, section 3)."""
    ways, found = bases(used), sales(used)
    if not ways:
        return
    _section("Tokens per second that pay for the machines, by what a million tokens sells for")
    prices = list(dict.fromkeys(sale.per_million for sale in found))
    columns = [f"at {dollars(price)}" for price in prices]
    rows = [[way.name, dollars(way.per_hour), *_least(way, prices, tokens_per_s)] for way in ways]
    show_table("", ["cost by", "$ per hour", *columns], rows, right=["$ per hour", *columns])
    pays = any(cell.endswith("✓") for row in rows for cell in row)
    verdict = "pay for what is marked ✓" if pays else "pay for none of these"
    sold = "; ".join(f"{dollars(price)}: {_sellers(found, price)}" for price in prices)
    out.print(
        plain(f"{number(tokens_per_s)} tokens per second {verdict}. {sold}. {_dates([*ways, *found])}"), style="dim"
    )


def _least(way: Basis, prices: Sequence[float], tokens_per_s: float) -> list[str]:
    least = [break_even_tokens_per_s(way.per_hour, price) for price in prices]
    return [f"{number(speed)} {'✓' if tokens_per_s >= speed else ' '}" for speed in least]


def _sellers(found: Sequence[Sale], price: float) -> str:
    return ", ".join(sale.name for sale in found if sale.per_million == price)


def _dates(priced: Sequence[Basis | Sale]) -> str:
    """`Prices as of 2025-01: gcp-8xl4, …; 2026-11-09: spot, ….`"""
    dates = sorted({one.as_of for one in priced if one.as_of})
    parts = [f"{date}: {', '.join(one.name for one in priced if one.as_of == date)}" for date in dates]
    return f"Prices as of {'; '.join(parts)}." if parts else ""
