"""From one step of a ring to the next, where steps are of several lengths. Closed form; knows no events.

Steps with prompts in them are few and long, none overtakes another, and N of them are in flight. So for any bound that
makes a share h of the steps long, some chain of events leads once around the ring with a long step, from there on to
the next long one that follows when the ring has come round, and around again; on the way it passes the shorter ones at
the slowest stage or wire:

    period >= (h x (way around of a long step + latency of the links) + (1 - h) x a short one) / (h N + 1 - h)

The longest of these, and of the busiest stage or wire, is the period; of steps that are all alike it is that of DeServe
(arXiv 2501.14784, section 4). Where long steps come in runs of c, as the chunks of a long prompt do, the chain passes a
whole run at one stage before it goes around, and runs are c times as far from each other.

The same for single figures and for arrays of them (`plan/serve/batching.py`).
"""

from collections.abc import Callable, Iterable, Sequence
from math import ceil
from typing import Any, NamedTuple

MAX_IN_FLIGHT = 256
"""Most steps that one ring keeps in flight, however far its machines are: each takes memory wherever it waits."""


READY = 1
"""Steps more than the fewest that are kept in flight: they wait, so that no stage does where steps differ in length, or
come back while the head computes another."""


class StepKind(NamedTuple):
    """Steps that are as long as each other. Numbers, or arrays of them."""

    share: Any
    """Of all steps."""
    stage_s: Sequence[Any]
    wire_s: Sequence[Any]


def steps_in_flight(
    stage_s: Sequence[float], latency_s: float, spread_s: float = 0.0, most: int = MAX_IN_FLIGHT
) -> int:
    """The fewest steps in flight that keep the slowest stage busy: N >= (sum of T + L + spread) / longest T.

    `stage_s` are the seconds of a step at each stage, and on each wire where these are known; `latency_s` those around
    the ring in which nobody works for it; `spread_s` by how much a round may last longer than that. With stages that
    are all alike, and no spread, it is S (1 + L / T) (DeServe, arXiv 2501.14784, section 4.1).
    """
    around_s, slowest_s = sum(stage_s) + latency_s + spread_s, max(stage_s)
    return most if around_s >= most * slowest_s else max(1, ceil(around_s / slowest_s - 1e-9))


def period_s(kinds: Sequence[StepKind], in_flight: float, hops_s: float, run: int = 1) -> float:
    """`kinds` from the shortest to the longest, whose shares need not add up to 1."""
    total = sum(kind.share for kind in kinds)
    shares = [kind.share / total for kind in kinds]
    columns = [
        [share * one for one in (*kind.stage_s, *kind.wire_s)] for share, kind in zip(shares, kinds, strict=True)
    ]
    everything = [sum(one) for one in zip(*columns, strict=True)]
    short, below = [0.0] * len(everything), 0.0
    found = [*everything, (sum(everything) + hops_s) / in_flight]
    for share, column in zip(shares[:-1], columns, strict=False):
        below += share
        short = [a + b for a, b in zip(short, column, strict=True)]
        long = [a - b for a, b in zip(everything, short, strict=True)]
        found.append(around_s(1 - below, long, short, in_flight, hops_s, run))
    return float(max(found))


def around_s(
    share: Any,
    long: Sequence[Any],
    short: Sequence[Any],
    in_flight: Any,
    hops_s: float,
    run: int,
    longest: Callable[[Iterable[Any]], Any] = max,
) -> Any:
    """The bound that long steps set, which are such a `share` of all.

    `long` and `short` are seconds by stage and wire, each times the share of its steps.
    """
    chain = sum(long) + share * hops_s + (run - 1) * longest(long) + run * longest(short)
    return chain / (share * (in_flight + run - 1) + run * (1 - share))
