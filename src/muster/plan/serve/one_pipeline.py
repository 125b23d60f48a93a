"""The serve planner for one pipeline of the machines of a live pool; those of an island may share stages.

Knows no clock; how long it may take is for the caller to say, for it searches much longer than the quick planner.
"""

from collections.abc import Callable
from dataclasses import replace

from muster.errors import InvalidRequest, PoolUnavailable
from muster.plan.joint import joined
from muster.plan.quick.candidates import by_use
from muster.plan.quick.planner import as_plan
from muster.plan.quick.tables import PlanOptions
from muster.plan.serve.options import Pin, ServeOptions
from muster.plan.serve.search import plan_serving
from muster.sim.serve.ring import BatchRules
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Pipeline, Plan, ServeSettings
from muster.spec.pool import LinkSpeed, Node, NodeId, Pool
from muster.spec.workload import ServeWorkload

MAX_MACHINES = 12
"""Live machines are all a little different, which is what makes the search long; the most useful ones take part."""
EVALUATIONS = 200
DOWN = LinkSpeed(60.0, 1.0)
"""What the search is told of a link that is down, so that it finds another way."""


def one_pipeline(
    shape: ModelShape, pool: Pool, options: PlanOptions, out_of_time: Callable[[], bool] = lambda: False
) -> Plan:
    """The pipeline with the most tokens/s. Raises `PoolUnavailable` where nothing serves the model."""
    fixed = {node for stage in options.fixed for node in stage.members}
    machines = sorted(by_use(shape, pool, options), key=lambda node: node.id not in fixed)[:MAX_MACHINES]
    some = replace(pool, nodes=tuple(machines), links=_links(pool, machines))
    alone = [stage.node for stage in options.fixed if not stage.others]
    joint = joined(shape, some, together=options.fixed, apart=alone)
    wanted = ServeOptions(
        max_replicas=1,
        max_tensor_parallel=None if shape.degrees else 1,
        swap=not joint.members and any(node.device.host_memory_bytes for node in machines),
        page_size=options.page_size,
        max_microbatches=options.max_microbatches,
        codecs=options.codecs,
        evaluations=EVALUATIONS,
        workspace=options.workspace,
        pins=tuple(Pin(stage.node, stage.first, stage.last) for stage in options.fixed),
    )
    try:
        found = plan_serving(
            shape, joint.pool, _workload(shape, options), wanted, options.constants, out_of_time=out_of_time
        )
    except InvalidRequest as error:  # the pins: with a small cache they may still do
        raise PoolUnavailable(str(error)) from error
    pipeline = found.plan.only_pipeline
    pages = min(pipeline.serve.num_pages, options.max_pages(shape))
    plan = as_plan(shape, pool, joint.parted(pipeline.stages), pages, options, "")
    as_found = _as_found(plan.only_pipeline, pipeline.serve)
    return replace(plan, pipelines=(as_found,), explanation=found.plan.explanation)


def _as_found(pipeline: Pipeline, found: ServeSettings) -> Pipeline:
    """With the steps in flight and what each carries as the search has it.

    The search fills the pages with requests of one length, so pages bound the batch by themselves, and shorter requests
    may run in larger numbers. It is told only where it is more than an engine would let into a step.
    """
    in_flight = max(len(pipeline.stages), found.num_microbatches)
    is_more = found.batch > BatchRules().max_batch
    return pipeline.with_work(
        num_microbatches=in_flight,
        batch=found.batch if is_more else 0,
        prefill_tokens=found.prefill_tokens or pipeline.serve.prefill_tokens,
        swap_pages=min(found.swap_pages, pipeline.serve.num_pages // 2),
    )


def _links(pool: Pool, machines: list[Node]) -> dict[tuple[NodeId, NodeId], LinkSpeed]:
    pairs = [(a.id, b.id) for a in machines for b in machines if a.id != b.id]
    links = {pair: pool.link(*pair) for pair in pairs}
    return {pair: link if link.bandwidth_bytes_per_s > 0 else DOWN for pair, link in links.items()}


def _workload(shape: ModelShape, options: PlanOptions) -> ServeWorkload:
    """Requests as long as the cache of every pipeline must at least be."""
    tokens = min(options.min_context, shape.max_context)
    outputs = max(1, tokens // 4)
    return ServeWorkload(prompt_tokens=max(1, tokens - outputs), output_tokens=outputs)
