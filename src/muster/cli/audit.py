"""`muster audit --explain`: how many answers must be checked so that cheating does not pay. Asks no pool."""

from math import isinf
from typing import Annotated

import typer

from muster.cli.options import Json
from muster.cli.output import out, plain, show_json, show_table
from muster.errors import InvalidRequest
from muster.verify.deterrence import Deterrence, least_rate

RATES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
CONFIDENCE = 0.99
Explain = Annotated[bool, typer.Option("--explain", help="Show what each rate of audits does; nothing is changed.")]
Stages = Annotated[int, typer.Option("--stages", help="Machines that serve a request in turn; one of them is checked.")]
Detection = Annotated[
    float,
    typer.Option("--detection", help="The share of audits of a cheated stage that find it (docs/claims.md, proof.1)."),
]
Stake = Annotated[float, typer.Option("--stake", help="What a machine loses when it is found out, in any currency.")]
Gain = Annotated[float, typer.Option("--gain", help="What it gains with each request on which it cheats, in the same.")]


def audit(
    explain: Explain = False,
    stages: Stages = 4,
    detection: Detection = 1.0,
    stake: Stake = 1.0,
    gain: Gain = 0.001,
    as_json: Json = False,
) -> None:
    """Say at which rate answers must be audited so that cheating does not pay, and what each rate costs."""
    if not explain:
        raise InvalidRequest("A pool runs no audits yet; pass --explain to see what each rate of them does.", "explain")
    least = least_rate(stake, gain, detection, stages)
    every = [Deterrence(rate, stages, detection) for rate in RATES]
    if as_json:
        show_json({"least_rate": least, "rates": [_facts(one, gain) for one in every]})
        return
    columns = ("audited", "cost", "a cheat is found", f"found by {CONFIDENCE:.0%} within", "least stake")
    show_table(
        f"One stage of {stages}, detection {detection:.0%}, gain {gain:g} a request",
        columns,
        [_row(one, gain, stake) for one in every],
        right=columns,
    )
    if least <= 1:
        out.print(plain(f"With a stake of {stake:g}, auditing {least:.2%} of requests makes honesty pay."))
    else:
        out.print(plain(f"With a stake of {stake:g} no rate makes honesty pay; ask for a stake of at least "
                        f"{Deterrence(1.0, stages, detection).least_stake(gain):.4g}."))  # fmt: skip


def _facts(one: Deterrence, gain: float) -> dict[str, float | None]:
    until, stake = one.requests_until(CONFIDENCE), one.least_stake(gain)
    return {
        "rate": one.rate,
        "cost": one.cost,
        "found": one.found,
        "requests_until_found": None if isinf(until) else until,
        "least_stake": None if isinf(stake) else stake,
    }


def _row(one: Deterrence, gain: float, stake: float) -> list[str]:
    needed = one.least_stake(gain)
    return [
        f"{one.rate:.0%}",
        f"{one.cost:.2%}",
        f"{one.found:.2%}",
        f"{one.requests_until(CONFIDENCE):.0f} requests",
        f"{needed:.4g}" + ("" if needed <= stake else " (more than this)"),
    ]
