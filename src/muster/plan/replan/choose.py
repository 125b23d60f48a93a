"""From a pipeline to a better one: the smallest change that is needed, or the change that gains most in the end.

What is lost is mended at once, so that streams wait as little as possible. What could merely be better is weighed
against its disturbance (`change`), small moves (`moves`) beside a plan made anew.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from math import inf

from muster.cost.memory import workspace_of
from muster.errors import PoolUnavailable
from muster.plan.quick.candidates import by_use
from muster.plan.quick.planner import Planner, as_plan
from muster.plan.quick.repair import repair, room_for_pages
from muster.plan.quick.search import Search
from muster.plan.quick.swap import host_has_room
from muster.plan.quick.tables import PlanOptions, Tables
from muster.plan.replan.change import Change, Situation, change_to
from muster.plan.replan.moves import recut, small_moves
from muster.plan.replan.pinned import honours
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Pipeline, Plan
from muster.spec.pool import Pool

CLEARLY = 1.2
"""So many times more tokens make up for an outage that is longer; less may be the error of a forecast."""


def mended(
    planner: Planner, shape: ModelShape, pool: Pool, situation: Situation, options: PlanOptions, horizon_s: float
) -> Change:
    """What to do where machines of the pipeline that was are gone, or must go, while streams wait for it.

    The gap goes to others where `planner` finds them and the cache stays as large as it was. Else the rest may share
    all anew: whatever is back soonest, unless another generates clearly more until the horizon, as one with room for
    more streams at once does. Only one that is made for that may move more weights than planning anew. Raises
    `PoolUnavailable`.
    """
    keep = situation.holders or situation.pipeline
    change = change_to(planner(shape, pool, keep, options), situation, shape, pool, options)
    if keep is None or (
        _keeps(change.plan, keep, pool) and change.plan.only_pipeline.serve.num_pages >= keep.serve.num_pages
    ):
        return change
    try:
        plans = [planner(shape, pool, None, options), *_honouring(_recut(shape, pool, keep, options), options)]
    except PoolUnavailable:  # a planner that is quick may find only what is near to what was
        return change
    anew, *others = (change_to(plan, situation, shape, pool, options) for plan in plans)
    changes = [one for one in (change, *others, anew) if one.moved_bytes <= anew.moved_bytes]
    tight = all(_pages(one.plan) < keep.serve.num_pages for one in changes)
    if tight and len(anew.plan.only_pipeline.stages) > 1:  # what fits on one machine is not split for its cache
        roomy = _honouring(_roomy(shape, pool, keep, options), options)
        changes += [change_to(plan, situation, shape, pool, options) for plan in roomy]
    return _soonest(changes, anew.moved_bytes, situation, horizon_s)


def _pages(plan: Plan) -> int:
    return plan.only_pipeline.serve.num_pages


def _soonest(changes: Sequence[Change], usual_bytes: int, situation: Situation, horizon_s: float) -> Change:
    """Of those that generate about as much as any until the horizon, the one after which streams go on first.

    One that moves more than `usual_bytes` is taken only if none of the others generates about as much.
    """

    def outage_s(change: Change) -> float:
        return change.disturbance_s + (change.load_seconds if situation.pipeline is None else 0.0)

    def tokens(change: Change) -> float:
        return (change.before + change.gain) * max(0.0, horizon_s - outage_s(change))

    enough = max(map(tokens, changes)) / CLEARLY
    near = [change for change in changes if tokens(change) >= enough]
    return min(near, key=lambda change: (change.moved_bytes > usual_bytes, outage_s(change), change.moved_bytes))


def improved(
    planner: Planner,
    shape: ModelShape,
    pool: Pool,
    situation: Situation,
    options: PlanOptions,
    horizon_s: float,
    proposals: Sequence[Plan] = (),
) -> Change:
    """The change that gains most until the horizon; not yet whether it is worth it. Raises `PoolUnavailable`.

    `proposals` count as far as they can be carried out on this pool, which may be another than they were made for.
    """
    anew = planner(shape, pool, None, options)
    # How many machines a small change may take is for the planner to say; and what fits on one is not split.
    most = max(len(pipeline.stages) for pipeline in anew.pipelines)
    others = [*_moved(shape, pool, situation.pipeline, most, options)]
    others += [plan for plan in proposals if most > 1 and can_be(plan, shape, pool, options)]
    plans = [anew, *_honouring(others, options)]
    changes = [change_to(plan, situation, shape, pool, options) for plan in plans]
    return max(changes, key=lambda change: (change.net_tokens(horizon_s), -change.moved_bytes))


def can_be(plan: Plan, shape: ModelShape, pool: Pool, options: PlanOptions) -> bool:
    """Whether the runtime could carry this out: one pipeline of machines that are here and have the memory."""
    here = {node.id for node in pool.nodes}
    if len(plan.pipelines) != 1:
        return False
    pipeline = plan.only_pipeline
    if (
        any(stage.devices != (0,) for stage in pipeline.stages)
        or not here.issuperset(pipeline.members())
        or pipeline.serve.page_size != options.page_size
        or not host_has_room(shape, pipeline.stages, {node.id: node.device for node in pool.nodes}, pipeline.serve)
    ):
        return False
    counting = replace(options, workspace=workspace_of(pipeline.work, options.workspace))
    room = room_for_pages(shape, pool, pipeline.stages, counting)
    return options.min_pages(shape) <= pipeline.serve.num_pages <= room


def _honouring(plans: Iterable[Plan], options: PlanOptions) -> list[Plan]:
    """Those that leave every pinned machine its layers."""
    return [plan for plan in plans if honours(plan.only_pipeline, options.fixed)]


def _moved(
    shape: ModelShape, pool: Pool, keep: Pipeline | None, most_stages: int, options: PlanOptions
) -> Iterator[Plan]:
    if keep is None or not {node.id for node in pool.nodes}.issuperset(keep.members()):
        return
    for stages, pages in small_moves(shape, pool, keep, most_stages, options):
        yield as_plan(shape, pool, stages, pages, options, "The pipeline as it was, but for a small change")


def _recut(shape: ModelShape, pool: Pool, keep: Pipeline, options: PlanOptions) -> Iterator[Plan]:
    """Those who remain share all layers, in their order: alone, and with the gap filled by others before."""
    nodes = {node.id: node for node in pool.nodes}
    filled = repair(shape, pool, keep, options)
    orders = [[nodes[node] for node in keep.nodes() if node in nodes]]
    orders += [[nodes[stage.node] for stage in filled[0]]] if filled is not None else []
    for order in orders:
        cut = recut(shape, pool, order, keep.serve.num_pages, options)
        if cut is not None:
            yield as_plan(shape, pool, *cut, options, "The remaining machines close up")


def _roomy(shape: ModelShape, pool: Pool, keep: Pipeline, options: PlanOptions) -> Iterator[Plan]:
    """Anew, with as much of the cache that there was as any order of the machines has room for."""
    nodes = by_use(shape, pool, options)[: options.exact_nodes]
    tables = Tables(shape, nodes, pool, options)
    low, high = options.min_pages(shape), keep.serve.num_pages
    best = None
    while low <= high:
        pages = (low + high) // 2
        search = Search(tables, 0, shape.num_layers, pages)
        fewest = search.fewest(inf)
        order = search.some_order(search.tightest(fewest)) if fewest is not None else None
        if order is None:
            high = pages - 1
        else:
            best, low = [nodes[index] for index in order], pages + 1
    cut = recut(shape, pool, best, keep.serve.num_pages, options) if best is not None else None
    if cut is not None:
        yield as_plan(shape, pool, *cut, options, "Planned anew for as much cache as there is room for")


def _keeps(plan: Plan, keep: Pipeline, pool: Pool) -> bool:
    """Whether everybody who remains keeps its very layers."""
    here = {node.id for node in pool.nodes}
    pipeline = plan.only_pipeline
    return {stage for stage in keep.stages if stage.node in here} <= set(pipeline.stages)
