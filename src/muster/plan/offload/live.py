"""Offload in a pool that runs: asked where nothing fits without, of machines that lend more than a device. Pure.

What fits is never offloaded. A stage that offloads takes all that its machine lends, and its plan says how much.
"""

from dataclasses import replace

from muster.errors import DoesNotFit
from muster.plan.offload.chain import OffloadOptions
from muster.plan.offload.serve import lends_elsewhere, plan_offload
from muster.plan.quick.planner import Planner
from muster.plan.quick.tables import PlanOptions
from muster.spec.model_shape import ModelShape
from muster.spec.plan import MemoryPolicy, Pipeline, Plan
from muster.spec.pool import Device, Pool
from muster.spec.workload import ServeWorkload

ANSWER_SHARE = 4
"""Of a context, one part in so many is taken to be the answer."""
MOST_SEQUENCES = 512
SIZES = OffloadOptions(
    orders=("zigzag",),
    attention_on_host=False,
    max_microbatches=16,
    max_sequences=MOST_SEQUENCES,
    prompt_tokens=(256, 512, 1024),
)


def offloading(planner: Planner) -> Planner:
    """`planner`, and where that finds no room, a plan that keeps a part on disk."""

    def plan(shape: ModelShape, pool: Pool, keep: Pipeline | None, options: PlanOptions) -> Plan:
        kept = None if keep is None or keep.offloads else keep
        try:
            return planner(shape, pool, kept, options)
        except DoesNotFit as error:
            able = replace(pool, nodes=tuple(node for node in pool.nodes if _can_offload(node.device)))
            if options.fixed or not able.nodes or not lends_elsewhere(able):
                raise
            if shape.few_bits or shape.packing:
                raise DoesNotFit(
                    f"{error} Weights and cache in few bits are not served from disk yet; leave --weights and --cache "
                    "out, or choose the unquantised checkpoint, to serve it from there."
                ) from None
            return _offloaded(shape, able, options)

    return plan


def _can_offload(device: Device) -> bool:
    """What this version's stages can do: between memory and disk of a processor."""
    return device.kind == "cpu"


def _offloaded(shape: ModelShape, pool: Pool, options: PlanOptions) -> Plan:
    context = min(options.context, shape.max_context)
    answer = max(1, context // ANSWER_SHARE)
    workload = ServeWorkload(prompt_tokens=max(1, context - answer), output_tokens=answer)
    found = plan_offload(shape, pool, workload, SIZES, options.constants)
    pipeline, devices = found.plan.only_pipeline, {node.id: node.device for node in pool.nodes}
    stages = tuple(replace(stage, memory=_promised(stage.memory, devices[stage.node])) for stage in pipeline.stages)
    pages = max(pipeline.serve.num_pages, options.min_pages(shape))
    prefill = min(max(pipeline.serve.prefill_tokens, options.workspace.prefill_tokens), 2048)
    made = replace(pipeline, stages=stages).with_work(
        num_pages=pages, batch=min(pipeline.serve.batch, MOST_SEQUENCES), prefill_tokens=prefill
    )
    why = f"{found.plan.explanation} Forecast: {found.forecast.tokens_per_s:.3g} tokens/s in full blocks."
    return replace(found.plan, pipelines=(made,), explanation=why)


def _promised(memory: MemoryPolicy, device: Device) -> MemoryPolicy:
    return replace(memory, device_bytes=device.memory_bytes, host_bytes=device.host_memory_bytes)
