"""A plan for a model that is larger than the devices of a pool: stages that keep a part in host memory and on disk.

Asked only where nothing fits without: what fits is never offloaded. Machines form one pipeline, in the order of the
pool; those without which it is no slower stay idle.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from math import ceil, inf

import numpy as np

from muster.cost.offload.load import stage_sizes
from muster.cost.offload.room import PAGE_TOKENS, cache_tokens
from muster.cost.offload.shares import policy_of
from muster.cost.pace import TYPICAL, Constants
from muster.errors import DoesNotFit
from muster.plan.found import Found
from muster.plan.offload.chain import ChainPlan, OffloadChain, OffloadOptions, lent_bytes, plan_chain
from muster.plan.offload.words import policies_in_words
from muster.plan.words import bytes_in_words
from muster.sim.serve.offload import offload_forecast
from muster.spec.forecast import ServeForecast
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Pipeline, Plan, ServeSettings, Stage
from muster.spec.pool import Node, Pool
from muster.spec.workload import ServeWorkload

MOST_MACHINES = 8
"""In one pipeline; of more, those that lend most."""


def lends_elsewhere(pool: Pool) -> bool:
    """Whether any machine lends host memory or disk for what its device does not hold."""
    return any(node.device.host_memory_bytes or node.device.disk_bytes for node in pool.nodes)


def plan_offload(
    shape: ModelShape,
    pool: Pool,
    workload: ServeWorkload,
    options: OffloadOptions = OffloadOptions(),
    constants: Constants = TYPICAL,
    out_of_time: Callable[[], bool] = lambda: False,
) -> Found[ServeForecast]:
    """The policy with the most tokens per second that is found. Raises `DoesNotFit` with what the machines lend."""
    nodes = sorted(pool.nodes, key=lambda node: -lent_bytes(node))[:MOST_MACHINES]
    nodes = [node for node in pool.nodes if node in nodes]
    best: tuple[ChainPlan, Sequence[Node]] | None = None
    solved = 0
    left = nodes
    while left and not (best is not None and out_of_time()):
        chain = OffloadChain(shape, left, pool, workload, options, constants)
        found = plan_chain(chain, out_of_time)
        solved += len(chain.solved)
        if found is not None and (best is None or found.tokens_per_s > best[0].tokens_per_s):
            best = found, left
        elif best is not None:
            break
        slowest = _least(found, left)
        left = [node for node in left if node is not slowest]
    if best is None:
        raise _nothing_fits(shape, pool)
    plan = _realised(shape, *best, options)
    forecast = offload_forecast(plan, pool, shape, workload, constants, options.skew)
    plan = replace(
        plan, step_seconds=forecast.seconds_per_token, explanation=_why(plan, pool, shape, forecast, options)
    )
    return Found(plan, forecast, "throughput", forecast.tokens_per_s, inf, (), solved, not out_of_time())


def _least(found: ChainPlan | None, nodes: Sequence[Node]) -> Node:
    """The machine that is tried without next: the one with the fewest layers, or that lends least."""
    if found is None:
        return min(nodes, key=lent_bytes)
    layers = [last - first for first, last in pairwise(found.cuts)]
    return nodes[int(np.argmin(layers))]


def _realised(shape: ModelShape, chain: ChainPlan, nodes: Sequence[Node], options: OffloadOptions) -> Plan:
    stages = []
    for node, block, (first, last) in zip(nodes, chain.stages, pairwise(chain.cuts), strict=True):
        sizes = stage_sizes(shape, first, last, options.skew)
        stages.append(Stage(node.id, first, last, memory=policy_of(sizes, np.array(block.shares), block.size)))
    size = replace(chain.size, blocks=len(nodes))
    settings = ServeSettings(
        num_pages=ceil(size.blocks * cache_tokens(size) / PAGE_TOKENS),
        page_size=PAGE_TOKENS,
        num_microbatches=len(nodes),
        batch=size.sequences,
        prefill_tokens=ceil(size.joining * size.prompt),
    )
    return Plan(shape.name, (Pipeline(tuple(stages), settings),))


def _why(plan: Plan, pool: Pool, shape: ModelShape, forecast: ServeForecast, options: OffloadOptions) -> str:
    weights = bytes_in_words(shape.weight_bytes(0, shape.num_layers))
    lent = bytes_in_words(sum(node.device.memory_bytes * node.device_count for node in pool.nodes))
    says = [f"{shape.name} has {weights} of weights and the devices lend {lent}, so a part lies elsewhere."]
    says += [f"{name}: {words}." for name, words in policies_in_words(plan, pool)]
    says.append(f"What binds is {forecast.bottleneck}.")
    if shape.num_experts:
        skew = options.skew
        alike = "all experts wanted alike" if not skew else f"the i-th expert wanted in proportion to i^-{skew:g}"
        says.append(f"Assumed is {alike}.")
    return " ".join(says)


def _nothing_fits(shape: ModelShape, pool: Pool) -> DoesNotFit:
    devices = [node.device for node in pool.nodes]
    lent = [sum(getattr(one, name) for one in devices) for name in ("memory_bytes", "host_memory_bytes", "disk_bytes")]
    layer = max(shape.layer_bytes)
    return DoesNotFit(
        f"{shape.name} needs {bytes_in_words(shape.weight_bytes(0, shape.num_layers))} for its weights, and two of its "
        f"layers take {bytes_in_words(2 * layer)} of a device beside the workspace; the machines lend "
        f"{bytes_in_words(lent[0])} of device memory, {bytes_in_words(lent[1])} of host memory and "
        f"{bytes_in_words(lent[2])} of disk; lend more of whichever is short."
    )
