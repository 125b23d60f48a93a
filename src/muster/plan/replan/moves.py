"""Pipelines that differ little from one at work: what can be tried before everything is planned anew.

Around the stages that hold up the ring: another machine in the place of one, one left out, one more beside it, and the
cuts moved with everybody where they are. The cuts are always those with the least slowest stage (`split`).
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import inf, isfinite

from muster.cost.island import holder
from muster.plan.quick.repair import room_for_pages
from muster.plan.quick.split import cover, least_slowest, most_pages
from muster.plan.quick.tables import PlanOptions, Tables
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Pipeline, Stage
from muster.spec.pool import Node, NodeId, Pool

Cut = tuple[tuple[Stage, ...], int]
"""Stages and KV pages."""
MAX_SUSPECTS, MAX_IDLE = 2, 2
"""Stages looked at, and idle machines tried with each."""
MAX_STAGES = 24
"""The cuts of a longer ring stay where they are: to find better ones would take long, and the head has work to do."""


def small_moves(shape: ModelShape, pool: Pool, keep: Pipeline, most_stages: int, options: PlanOptions) -> Iterator[Cut]:
    """Of at most `most_stages`, each once and different from `keep`, whose machines must all be in the pool."""
    nodes = {node.id: node for node in pool.nodes}
    suspects = _suspects(shape, pool, keep, nodes, options)
    idle = _fastest_idle(shape, pool, keep.stages[suspects[0]], set(keep.members()), options)
    seen = {keep.stages}
    for cut in (
        *_moved(shape, pool, keep, idle, suspects, options),
        *_replaced(shape, pool, keep, idle, suspects, options),
    ):
        if cut[0] not in seen and len(cut[0]) <= most_stages:
            seen.add(cut[0])
            yield cut


def recut(shape: ModelShape, pool: Pool, order: Sequence[Node], wanted_pages: int, options: PlanOptions) -> Cut | None:
    """The least slowest stage for machines in this order, then as many pages as there is room for.

    None if they cannot hold all, or a link is down. Balance may cost pages, but only those beyond `wanted_pages`.
    """
    if not order:
        return None
    tables, positions, layers = Tables(shape, order, pool, options), range(len(order)), shape.num_layers
    ring = [*pairwise(positions), (len(order) - 1, 0)] if len(order) > 1 else []
    least = min(wanted_pages, options.min_pages(shape))
    linked = all(isfinite(tables.wire[hop]) for hop in ring)
    if not linked or cover(tables, positions, inf, least, 0, layers) is None:
        return None
    pages = most_pages(tables, positions, inf, least, wanted_pages)
    stages = least_slowest(tables, positions, inf, pages, 0, layers)
    return None if stages is None else (stages, room_for_pages(shape, pool, stages, options))


def _moved(
    shape: ModelShape, pool: Pool, keep: Pipeline, idle: Sequence[Node], suspects: Sequence[int], options: PlanOptions
) -> list[Cut]:
    """New cuts for the same machines, for one fewer, one instead, and one more."""
    nodes = {node.id: node for node in pool.nodes}
    order = [nodes[node] for node in keep.nodes()]
    orders = [order]
    for k in suspects:
        orders.append([*order[:k], *order[k + 1 :]])
        for new in idle:
            orders += [[*order[:k], new, *order[end:]] for end in (k, k + 1)]
            orders.append([*order[: k + 1], new, *order[k + 1 :]])
    short = [changed for changed in orders if 0 < len(changed) <= min(MAX_STAGES, shape.num_layers)]
    cuts = [recut(shape, pool, changed, keep.serve.num_pages, options) for changed in short]
    return [cut for cut in cuts if cut is not None]


def _replaced(
    shape: ModelShape, pool: Pool, keep: Pipeline, idle: Sequence[Node], suspects: Sequence[int], options: PlanOptions
) -> list[Cut]:
    """One machine takes the very layers of another, while the rest still have room for theirs."""
    least = min(keep.serve.num_pages, options.min_pages(shape))
    cuts = []
    for k in suspects:
        for node in idle:
            new = Stage(node.id, keep.stages[k].first, keep.stages[k].last)
            stages = (*keep.stages[:k], new, *keep.stages[k + 1 :])
            cuts.append((stages, room_for_pages(shape, pool, stages, options)))
    return [cut for cut in cuts if cut[1] >= least]


def _suspects(
    shape: ModelShape, pool: Pool, keep: Pipeline, nodes: dict[NodeId, Node], options: PlanOptions
) -> list[int]:
    """The stages that take longest, with their way to the next one; the worst first."""
    following = (*keep.stages[1:], keep.stages[0])

    def seconds(k: int) -> float:
        stage, then = keep.stages[k], following[k]
        work_s = options.stage_seconds(shape, stage, holder(pool, nodes, stage))
        link = pool.link(stage.node, then.node)
        return max(work_s, options.hop_seconds(shape, link)) if then is not stage else work_s

    return sorted(range(len(keep.stages)), key=seconds, reverse=True)[:MAX_SUSPECTS]


def _fastest_idle(shape: ModelShape, pool: Pool, stage: Stage, busy: set[NodeId], options: PlanOptions) -> list[Node]:
    """Of the machines that have nothing to do, those that would compute this stage soonest."""

    def seconds(node: Node) -> tuple[float, NodeId]:
        return options.step_seconds(shape, stage.first, stage.last, node.device), node.id

    return sorted((node for node in pool.nodes if node.id not in busy), key=seconds)[:MAX_IDLE]
