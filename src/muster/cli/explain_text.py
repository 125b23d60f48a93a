"""What `--explain` adds for a person: why, what was rejected, what a machine more would do, break-even. No search."""

from collections.abc import Sequence

from muster.cli.figures import dollars, gain, number, seconds, share
from muster.cli.plan_record import OneMore, used_machines
from muster.cli.question import Answer, Objective, Question
from muster.cli.show import out, plain, show_facts, show_table
from muster.cost.profit import Basis, Sale, bases, break_even_tokens_per_s, sales
from muster.spec.forecast import ServeForecast
from muster.spec.pool import Pool

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
    if answer.rejected:
        _section("Rejected")
        show_facts((f"{index}.", one.why) for index, one in enumerate(answer.rejected[:3], start=1))
    if one_more:
        _section("With one machine more")
        rows = [_more(question.objective, answer.score or 0.0, one) for one in one_more]
        show_table("", ["one more", "like", "change", UNITS[question.objective]], rows, right=["change"])
    if isinstance(answer.forecast, ServeForecast):
        show_break_even(used_machines(question.pool, answer.plan), answer.forecast.tokens_per_s)


def _section(title: str) -> None:
    out.print(f"\n[bold]{title}[/bold]")


def _more(objective: Objective, now: float, one: OneMore) -> list[str]:
    kind = f"{one.devices} × {one.device}" if one.devices > 1 else one.device
    where = f"{one.like} in {one.region}" if one.region else one.like
    figures = f"{score(objective, now)} → {score(objective, one.score)}"
    return [kind, where, gain(now, one.score), figures if one.plan_uses_it else f"{figures}, and not used"]


def score(objective: Objective, value: float) -> str:
    """A value of the objective in its unit (`UNITS` says which)."""
    if objective == "slo":
        return share(value)
    if objective == "cost":
        return number(value * 3600)
    return number(value) if objective == "throughput" else seconds(value)


def show_break_even(used: Pool, tokens_per_s: float) -> None:
    """The profit line: tokens per second at which sales pay for the machines (DeServe, section 3)."""
    ways, by_price = bases(used), _by_price(sales(used))
    if not ways:
        return
    _section("Tokens per second that pay for the machines, by what a million tokens sells for")
    columns = [f"at {dollars(price)}" for price in by_price]
    rows = [[way.name, dollars(way.per_hour), *_least(way, by_price, tokens_per_s)] for way in ways]
    show_table("", ["cost by", "$ per hour", *columns], rows, right=["$ per hour", *columns])
    sold = "; ".join(f"{dollars(price)}: {', '.join(map(_dated, found))}" for price, found in by_price.items())
    dated = ", ".join(_dated(way) for way in ways if way.as_of)
    out.print(plain(f"✓ is paid for by {number(tokens_per_s)} tokens per second. {sold}. {dated}."), style="dim")


def _by_price(found: Sequence[Sale]) -> dict[float, list[Sale]]:
    prices: dict[float, list[Sale]] = {}
    for sale in found:
        prices.setdefault(sale.per_million, []).append(sale)
    return prices


def _least(way: Basis, prices: dict[float, list[Sale]], tokens_per_s: float) -> list[str]:
    least = [break_even_tokens_per_s(way.per_hour, price) for price in prices]
    return [f"{number(speed)} {'✓' if tokens_per_s >= speed else ' '}" for speed in least]


def _dated(one: Basis | Sale) -> str:
    return f"{one.name} of {one.as_of}" if one.as_of else one.name
