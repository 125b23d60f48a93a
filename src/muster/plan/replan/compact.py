"""A pipeline beside which others are to have machines: no more of them than each pays for. Pure.

A planner of one pipeline takes every machine that makes its ring faster. Of several pipelines each should rather be of
machines near each other, as many as generate most tokens for each machine; what is left makes the next one. Where what
is left would not suffice, the pipeline takes what it can use.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from muster.cost.memory import stage_bytes
from muster.errors import PoolUnavailable
from muster.plan.quick.candidates import by_use
from muster.plan.quick.planner import Planner
from muster.plan.quick.tables import PlanOptions
from muster.plan.replan.change import tokens_per_s
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Pipeline, Plan
from muster.spec.pool import Node, NodeId, Pool

PATIENCE = 2
"""So many machines more are tried, one after the other, that do not pay for themselves."""


def compact(planner: Planner) -> Planner:
    """`planner`, for one of several pipelines. It is asked itself where something is kept."""

    def plan(shape: ModelShape, pool: Pool, keep: Pipeline | None, options: PlanOptions) -> Plan:
        best: Plan | None = None
        most, patience = 0.0, PATIENCE
        for group in _groups(shape, pool, options) if keep is None and not options.fixed else ():
            try:
                found = planner(shape, replace(pool, nodes=tuple(group)), None, options)
            except PoolUnavailable:
                continue
            used = found.only_pipeline
            each = tokens_per_s(used, shape, pool, options) / len(used.members())
            if best is None or each > most:
                others = tuple(node.id for node in pool.nodes if node.id not in used.members())
                best, most, patience = replace(found, standbys=others), each, PATIENCE
            else:
                patience -= 1
            if not patience or len(used.members()) == 1:
                break
        if best is None or not _suffice(best.standbys, shape, pool, options):
            return planner(shape, pool, keep, options)
        return best

    return plan


def _groups(shape: ModelShape, pool: Pool, options: PlanOptions) -> Iterator[list[Node]]:
    """Ever larger ones around the machine that holds most: those that hold the model by their memory alone."""
    if not pool.nodes:
        return
    whole = _whole_bytes(shape, options)
    useful = by_use(shape, pool, options)
    first = max(useful, key=lambda node: (min(node.device.memory_bytes, whole), _speed(node), node.id))
    group, left = [first], [node for node in useful if node is not first]
    while True:
        if sum(node.device.memory_bytes for node in group) >= whole:
            yield list(group)
        if not left or len(group) >= options.exact_nodes:
            return
        nearest = min(left, key=lambda node: (_latency(pool, group, node), -node.device.memory_bytes, node.id))
        group.append(nearest)
        left.remove(nearest)


def _suffice(nodes: Sequence[NodeId], shape: ModelShape, pool: Pool, options: PlanOptions) -> bool:
    """Whether these may make another pipeline, by their memory alone."""
    return sum(node.device.memory_bytes for node in pool.nodes if node.id in nodes) >= _whole_bytes(shape, options)


def _whole_bytes(shape: ModelShape, options: PlanOptions) -> int:
    return stage_bytes(shape, 0, shape.num_layers, options.min_pages(shape) * options.page_size, options.workspace)


def _speed(node: Node) -> float:
    return node.device.memory_bandwidth_bytes_per_s


def _latency(pool: Pool, group: list[Node], node: Node) -> float:
    """To the nearest of the group; milliseconds of difference do not matter."""
    links = [pool.link(one.id, node.id) for one in group]
    up = [link.latency_s for link in links if link.bandwidth_bytes_per_s > 0]
    return round(min(up, default=60.0), 2)
