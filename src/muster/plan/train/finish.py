"""A priced layout as a plan: whole microbatches, and for each link the mildest codec that does not slow the step."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

from muster.plan.codecs import LinkLoad, mildest
from muster.plan.train.price import Priced, Prices
from muster.spec.codec import Codec
from muster.spec.plan import CodedLink, Pipeline, Plan, TrainSettings

SLACK = 0.01
"""Milder codecs may make the step so much longer than the strongest ones on all links would."""
Hop = tuple[int, int]
"""Slots, from and to."""


def finished_plan(priced: Priced, prices: Prices, codecs: Sequence[Codec], step_of: Callable[[Plan], float]) -> Plan:
    """Spare machines become standbys. `step_of` gives the step time of a plan in seconds."""
    fleet, layout = prices.fleet, priced.layout
    counts, step_s = prices.whole(priced)
    pipelines = []
    for row, count in zip(layout.grid.tolist(), counts, strict=True):
        stages = tuple(fleet.stage(slot, *span) for slot, span in zip(row, pairwise(layout.cuts), strict=True))
        pipelines.append(Pipeline(stages, TrainSettings(count, fleet.workload.microbatch)))
    used = {stage.node for pipeline in pipelines for stage in pipeline.stages}
    standbys = tuple(node.id for node in fleet.pool.nodes if node.id not in used)
    plan = Plan(fleet.shape.name, tuple(pipelines), standbys, step_s)
    return _coded(plan, _hops(priced, prices), prices, codecs, step_of) if len(codecs) > 1 else plan


def _hops(priced: Priced, prices: Prices) -> list[Hop]:
    """Between different machines, both ways."""
    pairs = [pair for row in priced.layout.grid.tolist() for pair in pairwise(row)]
    both = [hop for a, b in pairs for hop in ((a, b), (b, a))]
    return [(a, b) for a, b in both if prices.fleet.slots[a][0] != prices.fleet.slots[b][0]]


def _coded(
    plan: Plan, hops: Sequence[Hop], prices: Prices, codecs: Sequence[Codec], step_of: Callable[[Plan], float]
) -> Plan:
    """The longest period (`plan/codecs.py`) that keeps the step, by bisection: long periods let links be mild."""
    loads = [prices.fleet.load(*hop) for hop in hops]
    periods = sorted({load.seconds(codec) for load in loads for codec in codecs})

    def coded(period_s: float) -> Plan | None:
        chosen = mildest(loads, codecs, period_s)
        return None if chosen is None else _with_codecs(plan, _links(hops, prices, chosen.codecs))

    strongest = _strongest(loads, codecs)
    best = _with_codecs(plan, _links(hops, prices, strongest))
    limit_s = step_of(best) * (1 + SLACK)
    low, high = 0, len(periods)
    while low < high:
        middle = (low + high) // 2
        found = coded(periods[middle])
        # A period that some link cannot meet is too short, not too long.
        if found is None:
            low = middle + 1
        elif step_of(found) <= limit_s:
            best, low = found, middle + 1
        else:
            high = middle
    return best


def _with_codecs(plan: Plan, links: Sequence[CodedLink]) -> Plan:
    """Each pipeline with the links between its own stages."""
    return replace(plan, pipelines=tuple(replace(one, codecs=_within(one, links)) for one in plan.pipelines))


def _within(pipeline: Pipeline, links: Sequence[CodedLink]) -> tuple[CodedLink, ...]:
    neighbours = {frozenset(pair) for pair in pairwise(pipeline.nodes())}
    return tuple(link for link in links if frozenset((link.source, link.target)) in neighbours)


def _strongest(loads: Sequence[LinkLoad], codecs: Sequence[Codec]) -> tuple[Codec, ...]:
    return tuple(min(codecs, key=load.seconds) for load in loads)


def _links(hops: Sequence[Hop], prices: Prices, codecs: Sequence[Codec]) -> tuple[CodedLink, ...]:
    """Those that carry other than raw values; between two machines with several devices the strongest counts."""
    found: dict[tuple[str, str], Codec] = {}
    for (source, target), codec in zip(hops, codecs, strict=True):
        key = prices.fleet.node(source).id, prices.fleet.node(target).id
        known = found.get(key)
        if codec.bits_per_value and (known is None or codec.bits_per_value < known.bits_per_value):
            found[key] = codec
    return tuple(CodedLink(*key, codec) for key, codec in found.items())
