"""The best way that is known to serve a model on a pool. The same pool, options and seed give the same plan.

This first version serves from one pipeline of single devices, as `plan.first` places it.
"""

from collections.abc import Callable
from itertools import pairwise

from muster.cost.island import device_bytes, island_seconds
from muster.cost.pace import TYPICAL, Constants
from muster.cost.roofline import hidden_bytes, wire_seconds
from muster.cost.work import decode
from muster.plan.first import place
from muster.plan.serve.found import Found
from muster.plan.serve.options import ServeOptions
from muster.spec.forecast import LinkForecast, ServeForecast, StageForecast
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Pipeline, Plan
from muster.spec.pool import Pool
from muster.spec.workload import ServeWorkload

_BATCH = 32


def plan_serving(
    shape: ModelShape,
    pool: Pool,
    workload: ServeWorkload,
    options: ServeOptions = ServeOptions(),
    constants: Constants = TYPICAL,
    seed: int = 0,
    out_of_time: Callable[[], bool] = lambda: False,
) -> Found:
    """The plan with the best `options.objective`, its forecast, a bound on any plan, and the best plans not chosen.

    Raises `DoesNotFit` (by how much, and what would help), `InvalidRequest` (a pin, a budget or a deadline that no plan
    can meet), `PoolUnavailable`. `seed` feeds the random part of the search; `out_of_time` may cut it short.
    """
    plan = place(shape, pool)
    forecast = _forecast(plan, pool, shape, workload, constants, options)
    score = forecast.capacity_tokens_per_s
    return Found(plan, forecast, options.objective, score, float("inf"), (), 1)


def _forecast(
    plan: Plan, pool: Pool, shape: ModelShape, workload: ServeWorkload, constants: Constants, options: ServeOptions
) -> ServeForecast:
    (pipeline,) = plan.pipelines
    context = workload.prompt_tokens + workload.output_tokens / 2
    stages = _stages(pipeline, pool, shape, context, constants, options)
    slowest = max(stages, key=lambda stage: stage.seconds)
    hops = [*pairwise(pipeline.nodes()), (pipeline.nodes()[-1], pipeline.nodes()[0])] if len(stages) > 1 else []
    nbytes = hidden_bytes(shape, _BATCH)
    ring_s = sum(pool.link(*hop).latency_s + wire_seconds(pool.link(*hop), nbytes) for hop in hops)
    step_s = max(slowest.seconds, (sum(s.seconds for s in stages) + ring_s) / pipeline.num_microbatches)
    links = tuple(
        LinkForecast(*hop, nbytes / step_s, nbytes / step_s / pool.link(*hop).bandwidth_bytes_per_s)
        for hop in hops[:-1]
    )
    each_s = max(step_s, sum(s.seconds for s in stages) + ring_s)
    rate = _BATCH / step_s
    request_s = each_s * workload.output_tokens
    names = {node.id: node.name for node in pool.nodes}
    return ServeForecast(
        rate, rate, each_s, each_s, request_s, None, stages, links, f"{names[slowest.node]} is the slowest stage."
    )


def _stages(
    pipeline: Pipeline, pool: Pool, shape: ModelShape, context: float, constants: Constants, options: ServeOptions
) -> tuple[StageForecast, ...]:
    nodes = {node.id: node for node in pool.nodes}
    tokens = pipeline.num_pages * pipeline.page_size
    made = []
    for stage in pipeline.stages:
        node, degree = nodes[stage.node], len(stage.devices)
        work = decode(shape, stage.first, stage.last, _BATCH, context)
        busy_s = island_seconds(work, shape, _BATCH, node, degree, constants)
        sizes = device_bytes(shape, stage.first, stage.last, tokens, options.workspace, degree)
        cap = node.device.memory_bytes
        made.append(StageForecast(0, stage.node, stage.devices, stage.first, stage.last, busy_s, 1.0, *sizes, cap))
    return tuple(made)
