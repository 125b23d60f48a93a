"""Plans in which machines of an island share stages, where that is faster, or where only that suffices. Pure.

A planner is asked twice, for whole stages and for shared ones; of both plans the clearly faster one is taken. What is
kept is kept as it is: who shares a stage goes on sharing it, and who has one alone has it alone.
"""

from dataclasses import replace

from muster.errors import PoolUnavailable
from muster.plan.joint import joined
from muster.plan.quick.planner import Planner, as_plan
from muster.plan.quick.tables import PlanOptions
from muster.plan.replan.change import tokens_per_s
from muster.plan.replan.pinned import slowest_members
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Pipeline, Plan
from muster.spec.pool import Pool

WORTH = 1.2
"""So many times more tokens are worth it that a stage is lost with any one of several machines."""


def sharing(planner: Planner) -> Planner:
    """`planner`, with stages on islands too."""

    def plan(shape: ModelShape, pool: Pool, keep: Pipeline | None, options: PlanOptions) -> Plan:
        if keep is not None or options.fixed or not shape.degrees or not any(node.island for node in pool.nodes):
            return planner(shape, pool, keep, options)
        try:
            whole = planner(shape, pool, None, options)
        except PoolUnavailable:
            shared = _shared(planner, shape, pool, options)
            if shared is None:
                raise
            return shared
        shared = _shared(planner, shape, pool, options)
        if shared is None or not _is_faster(shared, whole, shape, pool, options):
            return whole
        return shared

    return plan


def _shared(planner: Planner, shape: ModelShape, pool: Pool, options: PlanOptions) -> Plan | None:
    """None where no island is of use, or none suffices."""
    joint = joined(shape, pool)
    if not joint.members:
        return None
    try:
        found = planner(shape, joint.pool, None, options)
    except PoolUnavailable:
        return None
    pipeline = found.only_pipeline
    if all(stage.degree == 1 for stage in pipeline.stages):
        return None
    stages = joint.parted(pipeline.stages)
    why = "Machines of an island share stages" + slowest_members(pool, stages)
    made = as_plan(shape, pool, stages, pipeline.serve.num_pages, options, why)
    as_found = made.only_pipeline.with_work(batch=pipeline.serve.batch)
    return replace(made, pipelines=(as_found,))


def _is_faster(shared: Plan, whole: Plan, shape: ModelShape, pool: Pool, options: PlanOptions) -> bool:
    both = (tokens_per_s(plan.only_pipeline, shape, pool, options) for plan in (shared, whole))
    fast, slow = both
    return fast > WORTH * slow
