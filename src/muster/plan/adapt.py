"""From a pipeline to a better one: the smallest change that is needed, or the change that gains most in the end.

What is lost is mended at once, with as few weights moved as possible. What could merely be better is weighed against
its disturbance (`change`), small moves (`moves`) beside a plan made anew.
"""

from collections.abc import Iterator, Sequence

from muster.plan.change import Change, Situation, change_to
from muster.plan.first import Planner, as_plan
from muster.plan.moves import recut, small_moves
from muster.plan.repair import room_for_pages
from muster.plan.tables import PlanOptions
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Pipeline, Plan
from muster.spec.pool import Pool


def mended(
    planner: Planner, shape: ModelShape, pool: Pool, situation: Situation, options: PlanOptions, horizon_s: float
) -> Change:
    """What to do where machines of the pipeline that was are gone, or must go.

    The gap goes to others where `planner` finds them. Where there are none the rest closes up, or everything is planned
    anew, whichever gains more. Raises `PoolUnavailable` where nothing serves the model.
    """
    keep = situation.holders or situation.pipeline
    change = change_to(planner(shape, pool, keep), situation, shape, pool, options)
    closed = _closed_up(shape, pool, keep, options) if keep and not _keeps(change.plan, keep, pool) else None
    if closed is None:
        return change
    other = change_to(closed, situation, shape, pool, options)
    better = other.net_tokens(horizon_s) > change.net_tokens(horizon_s) and other.moved_bytes <= change.moved_bytes
    return other if better else change


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
    anew = planner(shape, pool, None)
    # How many machines a small change may take is for the planner to say; and what fits on one is not split.
    most = max(len(pipeline.stages) for pipeline in anew.pipelines)
    plans = [anew, *_moved(shape, pool, situation.pipeline, most, options)]
    plans += [plan for plan in proposals if most > 1 and can_be(plan, shape, pool, options)]
    changes = [change_to(plan, situation, shape, pool, options) for plan in plans]
    return max(changes, key=lambda change: (change.net_tokens(horizon_s), -change.moved_bytes))


def can_be(plan: Plan, shape: ModelShape, pool: Pool, options: PlanOptions) -> bool:
    """Whether the runtime could carry this out: one pipeline of single devices that are here and have the memory."""
    here = {node.id for node in pool.nodes}
    if len(plan.pipelines) != 1 or any(stage.devices != (0,) for stage in plan.pipelines[0].stages):
        return False
    (pipeline,) = plan.pipelines
    if not here.issuperset(pipeline.nodes()) or pipeline.page_size != options.page_size or pipeline.swap_pages:
        return False
    return options.min_pages(shape) <= pipeline.num_pages <= room_for_pages(shape, pool, pipeline.stages, options)


def _moved(
    shape: ModelShape, pool: Pool, keep: Pipeline | None, most_stages: int, options: PlanOptions
) -> Iterator[Plan]:
    if keep is None or not {node.id for node in pool.nodes}.issuperset(keep.nodes()):
        return
    for stages, pages in small_moves(shape, pool, keep, most_stages, options):
        yield as_plan(shape, pool, stages, pages, options, "The pipeline as it was, but for a small change")


def _closed_up(shape: ModelShape, pool: Pool, keep: Pipeline, options: PlanOptions) -> Plan | None:
    """Those who remain, in their order, share all layers."""
    nodes = {node.id: node for node in pool.nodes}
    order = [nodes[node] for node in keep.nodes() if node in nodes]
    cut = recut(shape, pool, order, keep.num_pages, options)
    return None if cut is None else as_plan(shape, pool, *cut, options, "The remaining machines close up")


def _keeps(plan: Plan, keep: Pipeline, pool: Pool) -> bool:
    """Whether everybody who remains keeps its very layers."""
    here = {node.id for node in pool.nodes}
    (pipeline,) = plan.pipelines
    return {stage for stage in keep.stages if stage.node in here} <= set(pipeline.stages)
