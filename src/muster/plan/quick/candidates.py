"""A few useful machines out of many, and rings too long for the exact search. Deterministic, not exact.

From a pool larger than `PlanOptions.exact_nodes`, the machines are taken that hold the most layers within the least
bound at which that many machines can hold the model at all; among equals those nearest to the best one, then by id.
All layers count as the average one, head and embedding included in it.
"""

from collections.abc import Sequence

import numpy as np

from muster.cost.layer_ranges import Floats
from muster.cost.memory import workspace_bytes
from muster.cost.pace import seconds
from muster.cost.work import Work
from muster.plan.quick.tables import PlanOptions
from muster.spec.model_shape import ModelShape
from muster.spec.pool import Node, Pool


def by_use(shape: ModelShape, pool: Pool, options: PlanOptions) -> list[Node]:
    """The most useful machines first (see above); a small pool keeps all of its machines, by id."""
    nodes = sorted(pool.nodes, key=lambda node: node.id)
    if len(nodes) <= options.exact_nodes:
        return nodes
    layers_held, start_s, layer_s = _held_and_seconds(shape, nodes, options)
    bound_s = _least_bound(layers_held, start_s, layer_s, shape.num_layers, options.exact_nodes)
    layers_within = np.clip((bound_s - start_s) / layer_s, 0.0, layers_held)
    best = nodes[int(layers_within.argmax())]
    ranked = [
        (-round(float(within), 1), _distance(pool, best, node), node.id, node)
        for node, within, held in zip(nodes, layers_within, layers_held, strict=True)
        if held > 0
    ]
    return [node for *_, node in sorted(ranked, key=lambda entry: entry[:3])]


def _held_and_seconds(shape: ModelShape, nodes: Sequence[Node], options: PlanOptions) -> tuple[Floats, Floats, Floats]:
    """Average layers that fit on each machine, its seconds for the start of a step, and those per average layer."""
    layers = shape.num_layers
    cache_tokens = options.min_pages(shape) * options.page_size
    degrees = np.array([node.device_count for node in nodes], dtype=np.float64)
    per_layer = (sum(shape.layer_bytes) + cache_tokens * sum(shape.kv_bytes_per_token)) / layers / degrees
    scratch = workspace_bytes(shape, -1, options.workspace)
    caps = np.array([node.device.memory_bytes for node in nodes], dtype=np.float64)
    layers_held = np.clip((caps - scratch) / per_layer, 0.0, layers)
    whole = options.work(shape, 0, layers)
    start = Work(rows=whole.rows, steps=whole.steps)
    start_s, whole_s = (
        np.array([seconds(work, node.device, shape.dtype, options.constants) for node in nodes])
        for work in (start, whole)
    )
    return layers_held, start_s, np.maximum((whole_s - start_s) / layers / degrees, 1e-12)


def _least_bound(layers_held: Floats, start_s: Floats, layer_s: Floats, layers: int, keep: int) -> float:
    """The least step time at which the best `keep` machines hold `layers` layers together."""
    bounds = np.unique(start_s + layers_held * layer_s)
    low, high = 0, len(bounds) - 1
    while low < high:
        middle = (low + high) // 2
        within = np.sort(np.clip((bounds[middle] - start_s) / layer_s, 0.0, layers_held))
        if within[-keep:].sum() >= layers * (1 - 1e-12):
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
