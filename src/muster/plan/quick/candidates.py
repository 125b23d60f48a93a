"""A few useful machines out of many, and rings too long for the exact search. Deterministic, not exact.

From a pool larger than `PlanOptions.exact_nodes`, the machines are taken that hold the most layers within the least
bound at which that many machines can hold the model at all; among equals those nearest to the best one, then by id.
"""

from collections.abc import Sequence

import numpy as np

from muster.cost.memory import workspace_bytes
from muster.cost.roofline import flops_per_s, memory_bandwidth
from muster.plan.quick.tables import Floats, PlanOptions
from muster.spec.model_shape import ModelShape
from muster.spec.pool import Node, Pool


def by_use(shape: ModelShape, pool: Pool, options: PlanOptions) -> list[Node]:
    """The most useful machines first (see above); a small pool keeps all of its machines, by id."""
    nodes = sorted(pool.nodes, key=lambda node: node.id)
    if len(nodes) <= options.exact_nodes:
        return nodes
    layers_held, paces = _held_and_pace(shape, nodes, options)
    bound_s = _least_bound(layers_held, paces, shape.num_layers, options.exact_nodes)
    layers_within = np.minimum(layers_held, bound_s / paces)
    best = nodes[int(layers_within.argmax())]
    ranked = [
        (-round(float(within), 1), _distance(pool, best, node), node.id, node)
        for node, within, held in zip(nodes, layers_within, layers_held, strict=True)
        if held > 0
    ]
    return [node for *_, node in sorted(ranked, key=lambda entry: entry[:3])]


def _held_and_pace(shape: ModelShape, nodes: Sequence[Node], options: PlanOptions) -> tuple[Floats, Floats]:
    """Average layers that fit on each machine, and its seconds per average layer."""
    layers = shape.num_layers
    cache_tokens = options.min_pages(shape) * options.page_size
    per_layer = (sum(shape.layer_bytes) + cache_tokens * sum(shape.kv_bytes_per_token)) / layers
    scratch = workspace_bytes(shape, -1, options.workspace)
    caps = np.array([node.device.memory_bytes for node in nodes], dtype=np.float64)
    layers_held = np.clip((caps - scratch) / per_layer, 0.0, layers)
    read = (sum(shape.layer_bytes) + options.batch * options.context * sum(shape.kv_bytes_per_token)) / layers
    flops = options.batch * sum(shape.layer_flops_per_token) / layers
    bandwidths = np.array([memory_bandwidth(node.device) for node in nodes])
    speeds = np.array([flops_per_s(node.device, shape.dtype) for node in nodes])
    return layers_held, np.maximum(np.maximum(read / bandwidths, flops / speeds), 1e-12)


def _least_bound(layers_held: Floats, paces: Floats, layers: int, keep: int) -> float:
    """The least step time at which the best `keep` machines hold `layers` layers together ."""
    bounds = np.unique(layers_held * paces)
    low, high = 0, len(bounds) - 1
    while low < high:
        middle = (low + high) // 2
        within = np.sort(np.minimum(layers_held, bounds[middle] / paces))
        if within[-keep:].sum() >= layers:
            high = middle
        else:
            low = middle + 1
    return float(bounds[low])


def _distance(pool: Pool, here: Node, there: Node) -> float:
    return 0.0 if here.id == there.id else pool.link(here.id, there.id).latency_s


def nearest_neighbours(pool: Pool, nodes: Sequence[Node]) -> list[Node]:
    """A ring through all of `nodes`: start at the first, always go to the nearest that is left."""
    ring, left = [nodes[0]], list(nodes[1:])
    while left:
        here = ring[-1]
        following = min(left, key=lambda node: (_distance(pool, here, node), node.id))
        ring.append(following)
        left.remove(following)
    return ring
