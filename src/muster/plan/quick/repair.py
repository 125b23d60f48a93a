"""Fill the gap that lost machines left and leave everybody else alone, so that only the lost layers are loaded again.

Each gap is a run of layers whose machines are gone. It goes to the fastest idle machine that can take all of it, else
to the fewest idle machines that can hold it together; or to machines of an island that share it, where that is clearly
faster, or where only that suffices. Whether the result is as good as a new plan is for the broker to ask
later, when the pool serves again.
"""

from collections.abc import Sequence
from math import inf

from muster.cost.memory import stage_bytes
from muster.plan.joint import joined
from muster.plan.quick.candidates import by_use
from muster.plan.quick.search import Search
from muster.plan.quick.split import least_slowest
from muster.plan.quick.tables import PlanOptions, Tables
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Pipeline, Stage
from muster.spec.pool import Node, Pool

SHARED_WORTH = 1.2
"""So many times slower may a gap's slowest stage be before machines of an island share it: any of them may be lost."""


def repair(shape: ModelShape, pool: Pool, keep: Pipeline, options: PlanOptions) -> tuple[tuple[Stage, ...], int] | None:
    """Stages and KV pages; None where the gaps cannot be filled, or nothing is left to keep."""
    caps = {node.id: node.device.memory_bytes for node in pool.nodes}
    tokens = options.min_pages(shape) * options.page_size
    stays = [
        stage
        for stage in keep.stages
        if min(caps.get(node, 0) for node in stage.members)
        >= stage_bytes(shape, stage.first, stage.last, tokens, options.workspace, stage.degree)
    ]
    if not stays:
        return None
    stages = list(stays)
    for first, last in sorted(_gaps(stays, shape.num_layers), key=lambda gap: gap[0] - gap[1]):  # the largest first
        idle = Pool(_idle(pool, stages), pool.links, pool.default_link)
        filling = _fill(shape, idle, first, last, options)
        if filling is None:
            return None
        stages += filling
    stages.sort(key=lambda stage: stage.first)
    if _crosses_a_broken_link(pool, stages):
        return None
    return tuple(stages), room_for_pages(shape, pool, stages, options)


def _gaps(stays: Sequence[Stage], layers: int) -> list[tuple[int, int]]:
    """Runs of layers that no stage in `stays` (ordered) covers."""
    ends = [0, *(stage.last for stage in stays)]
    starts = [*(stage.first for stage in stays), layers]
    return [(end, start) for end, start in zip(ends, starts, strict=True) if start > end]


def _idle(pool: Pool, stages: Sequence[Stage]) -> tuple[Node, ...]:
    busy = {node for stage in stages for node in stage.members}
    return tuple(node for node in pool.nodes if node.id not in busy)


def _fill(shape: ModelShape, idle: Pool, first: int, last: int, options: PlanOptions) -> Sequence[Stage] | None:
    whole = _filled(shape, idle, first, last, options)
    joint = joined(shape, idle)
    shared = _filled(shape, joint.pool, first, last, options) if joint.members else None
    if shared is None or (whole is not None and whole[1] <= SHARED_WORTH * shared[1]):
        return None if whole is None else whole[0]
    return joint.parted(shared[0])


def _filled(
    shape: ModelShape, idle: Pool, first: int, last: int, options: PlanOptions
) -> tuple[tuple[Stage, ...], float] | None:
    """Stages, and the bound on the slowest of them in seconds."""
    nodes = by_use(shape, idle, options)[: options.exact_nodes] if idle.nodes else []
    if not nodes:
        return None
    tables = Tables(shape, nodes, idle, options)
    search = Search(tables, first, last, options.min_pages(shape))
    fewest = search.fewest(inf)
    if fewest is None:
        return None
    bound_s = search.tightest(fewest)
    order = search.some_order(bound_s)
    stages = least_slowest(tables, order, bound_s, search.pages, first, last) if order is not None else None
    return None if stages is None else (stages, bound_s)


def _crosses_a_broken_link(pool: Pool, stages: Sequence[Stage]) -> bool:
    hops = zip(stages, (*stages[1:], stages[0]), strict=True) if len(stages) > 1 else ()
    return any(pool.link(source.node, target.node).bandwidth_bytes_per_s <= 0 for source, target in hops)


def room_for_pages(shape: ModelShape, pool: Pool, stages: Sequence[Stage], options: PlanOptions) -> int:
    """KV pages that the tightest stage has room for; below 0 where not even its weights fit."""
    caps = {node.id: node.device.memory_bytes for node in pool.nodes}
    pages = options.max_pages(shape)
    for stage in stages:
        bare = stage_bytes(shape, stage.first, stage.last, 0, options.workspace, stage.degree)
        per_page = -(-options.page_size * shape.cache_bytes_per_token(stage.first, stage.last) // stage.degree)
        room = min(caps[node] for node in stage.members) - bare
        pages = min(pages, room // per_page if per_page else pages)
    return pages
