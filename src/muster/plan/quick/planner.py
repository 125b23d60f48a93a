"""One pipeline, exact for small pools. Pure: the same pool gives the same plan.

A machine of several devices is an island: all of them share its stage (`plan/joint.py` makes one of several machines).

What it wants, in this order: hold the model at all; do not split what fits on one machine (the fastest that holds it);
make the slowest stage as fast as the pool allows, with no more machines than pay for themselves; order them so that a
token travels least; keep as much cache as the tightest stage has room for.

A ring of S stages with stage time T and N steps in flight makes a step every max(T, (S T + ring latency) / N) seconds
(`sim/serve/rounds.py`). N is capped, so machines that are far away for the work they
save make the ring slower, and are left out.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import inf
from typing import Protocol

import msgspec

from muster.cost.island import holder
from muster.cost.memory import stage_bytes
from muster.cost.transfer import wire_seconds
from muster.plan.quick.candidates import by_use, nearest_neighbours
from muster.plan.quick.explain import does_not_fit, explain, links_are_down, nobody_here
from muster.plan.quick.link_codecs import codecs_of, coded
from muster.plan.quick.repair import repair
from muster.plan.quick.search import Order, Search
from muster.plan.quick.split import furthest, least_slowest, most_pages
from muster.plan.quick.swap import swap_pages
from muster.plan.quick.tables import PlanOptions, Tables
from muster.sim.serve.rounds import steps_in_flight
from muster.spec.codec import RAW
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Pipeline, Plan, ServeSettings, Stage
from muster.spec.pool import Node, Pool


class Planner(Protocol):
    """Whatever decides which machine does what."""

    def __call__(self, shape: ModelShape, pool: Pool, keep: Pipeline | None, options: PlanOptions) -> Plan:
        """A plan for `pool`, or `PoolUnavailable` (mostly `DoesNotFit`).

        With `keep`, a pipeline of which some machines may be gone: the others keep their layers where that is
        possible, so that only what was lost is loaded again.
        """


def place(shape: ModelShape, pool: Pool, keep: Pipeline | None = None, options: PlanOptions = PlanOptions()) -> Plan:
    """The quick `Planner`."""
    if not pool.nodes:
        raise nobody_here(shape, options)
    if keep is not None:
        kept = repair(shape, pool, keep, options)
        if kept is not None:
            stages, pages = kept
            return as_plan(shape, pool, stages, pages, options, "The remaining machines keep their layers")
    alone = _alone(shape, pool, options)
    if alone is not None:
        return alone
    useful = by_use(shape, pool, options)
    plan = _ring(shape, pool, useful[: options.exact_nodes], options)
    return plan or _long_ring(shape, pool, useful, options)


def _alone(shape: ModelShape, pool: Pool, options: PlanOptions) -> Plan | None:
    """The fastest machine that holds everything, with room for large steps if it has it."""
    larger = replace(options, workspace=options.workspace.of_steps(batch=options.batch_alone))
    return _fastest(shape, pool, larger, options.batch_alone) or _fastest(shape, pool, options, 0)


def _fastest(shape: ModelShape, pool: Pool, options: PlanOptions, batch: int) -> Plan | None:
    """The fastest machine that holds everything beside the workspace of steps with so many sequences."""
    tokens = options.min_pages(shape) * options.page_size
    whole = (0, shape.num_layers)
    able = [
        node
        for node in pool.nodes
        if node.device.memory_bytes >= stage_bytes(shape, *whole, tokens, options.workspace, node.device_count)
    ]
    if not able:
        return None
    pace = {node.id: options.stage_seconds(shape, _all_of(shape, node), node) for node in able}
    best = min(able, key=lambda node: (pace[node.id], node.id))
    tables = Tables(shape, [best], pool, options)
    pages = most_pages(tables, (0,), inf, options.min_pages(shape), options.max_pages(shape))
    stages = (_all_of(shape, best),)
    return as_plan(shape, pool, stages, pages, options, "The fastest machine that holds the whole model", batch)


def _all_of(shape: ModelShape, node: Node) -> Stage:
    return Stage(node.id, 0, shape.num_layers, tuple(range(node.device_count)))


def _ring(shape: ModelShape, pool: Pool, nodes: Sequence[Node], options: PlanOptions) -> Plan | None:
    """The best ring of some of `nodes`; None if they do not hold the model but more machines might."""
    if not nodes:
        return None
    tables = Tables(shape, nodes, pool, options)
    search = Search(tables, 0, shape.num_layers, options.min_pages(shape))
    fewest = search.fewest(inf)
    if fewest is None and len(nodes) == len(pool.nodes):
        raise does_not_fit(shape, nodes, search.furthest(), options)
    if fewest is None:
        return None
    for stages in _counts(search, tables, fewest, options):
        bound_s = search.tightest(stages) * (1 + options.worth)
        order = search.quickest_order(stages, bound_s)
        if order is not None:
            return _finish(tables, order, bound_s, "The least slowest stage that is worth its machines")
    raise links_are_down()


def _counts(search: Search, tables: Tables, fewest: int, options: PlanOptions) -> list[int]:
    """Stage counts worth trying: first the fewest within `worth` of the fastest ring, then the others as a fallback."""
    leaving = sorted(min(row[row > 0], default=0.0) for row in tables.latency)
    paces: dict[int, float] = {}
    for stages in range(fewest, search.count + 1):
        ring_s = float(sum(leaving[:stages])) if stages > 1 else 0.0
        if paces and (ring_s / options.max_microbatches) >= min(paces.values()):
            break  # even stages that take no time would not help any more
        tightest_s = search.tightest(stages)
        paces[stages] = max(tightest_s, (stages * tightest_s + ring_s) / options.max_microbatches)
    enough_s = min(paces.values()) * (1 + options.worth)
    chosen = min(stages for stages, pace in paces.items() if pace <= enough_s)
    return [chosen, *(stages for stages in range(fewest, search.count + 1) if stages != chosen)]


def _finish(tables: Tables, order: Order, bound_s: float, why: str) -> Plan:
    """Give `order` as much cache as the bound allows, then the cuts with the least slowest stage."""
    options, shape = tables.options, tables.shape
    some = tables.only(order)
    positions = range(len(order))
    pages = most_pages(some, positions, bound_s, options.min_pages(shape), options.max_pages(shape))
    stages = least_slowest(some, positions, bound_s, pages, 0, shape.num_layers)
    assert stages is not None, "an order that the search found covers all layers"
    return as_plan(shape, tables.pool, stages, pages, options, why)


def _long_ring(shape: ModelShape, pool: Pool, nodes: Sequence[Node], options: PlanOptions) -> Plan:
    """More machines than the exact search can order: the most useful ones that suffice, each next to its nearest.

    `nodes` are the most useful first.
    """
    pages, covered, count = options.min_pages(shape), 0, min(options.exact_nodes, len(nodes))
    while count < len(nodes):
        count = min(len(nodes), count + max(1, count // 4))
        tables = Tables(shape, nearest_neighbours(pool, nodes[:count]), pool, options)
        reached, used = furthest(tables, range(count), pages)
        covered = max(covered, reached)
        if reached == shape.num_layers:
            return _finish(tables, used, inf, "The most useful machines that hold the model together")
    raise does_not_fit(shape, pool.nodes, covered, options)


def as_plan(
    shape: ModelShape,
    pool: Pool,
    stages: Sequence[Stage],
    pages: int,
    options: PlanOptions,
    why: str,
    batch: int = 0,
) -> Plan:
    """These stages as a plan of one ring, with steps in flight and the reason in words; `batch` as in the settings."""
    devices = {node.id: node.device for node in pool.nodes}
    hops = list(zip(stages, (*stages[1:], stages[0]), strict=True)) if len(stages) > 1 else []
    links = [pool.link(source.node, target.node) for source, target in hops]
    if any(wire_seconds(link, 1) == inf for link in links):
        raise links_are_down()
    nodes = {node.id: node for node in pool.nodes}
    work = [options.stage_seconds(shape, stage, holder(pool, nodes, stage)) for stage in stages]
    # The way back carries token ids only, so its bandwidth does not bound the step.
    codecs = codecs_of(shape, links[:-1], max(work), options)
    carried = [options.message_bytes(shape, codec) for codec in codecs]
    wires_s = [wire_seconds(link, nbytes) for link, nbytes in zip(links, carried, strict=False)]
    step_s = max([*work, *wires_s])
    ring_s = sum(options.hop_seconds(shape, link, codec) for link, codec in zip(links, (*codecs, RAW), strict=False))
    settings = ServeSettings(
        num_pages=pages,
        page_size=options.page_size,
        num_microbatches=microbatches(len(stages), step_s, ring_s, options),
        batch=batch,
        prefill_tokens=options.workspace.prefill_tokens,
    )
    shared = any(stage.degree > 1 for stage in stages)
    swapped = 0 if shared else swap_pages(shape, stages, devices, settings, step_s, options)
    pipeline = Pipeline(tuple(stages), msgspec.structs.replace(settings, swap_pages=swapped), coded(stages, codecs))
    used = set(pipeline.members())
    return Plan(
        model=shape.name,
        pipelines=(pipeline,),
        standbys=tuple(node.id for node in pool.nodes if node.id not in used),
        step_seconds=step_s,
        explanation=explain(pool, pipeline, step_s, ring_s, why),
    )


def microbatches(stages: int, step_s: float, ring_s: float, options: PlanOptions) -> int:
    """Steps in flight to begin with: as many as the law asks for (`sim/serve/rounds.py`) where each stage may take as
    long as the slowest, since steps differ in length. The engine goes on with what its own steps tell it.
    """
    if stages == 1:
        return 1
    return max(stages, steps_in_flight([max(step_s, 1e-9)] * stages, ring_s, most=options.max_microbatches))
