"""Seconds of a stage that is split over several devices: equal ones of one machine, or machines of one island.

Tensor parallelism of degree D: each device does 1/D of the work, and every layer ends two all-reduces of the hidden
state, each 2 (D - 1) messages of 1/D of it (HexGen, arXiv 2311.11514, section 3.2; the cost model in its repository).
`Constants` says what one costs however small, and what really passes between two devices.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf

from muster.cost.codecs import message_bytes
from muster.cost.pace import IDEAL, Constants, seconds
from muster.cost.work import Work
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Stage
from muster.spec.pool import LinkSpeed, Node, NodeId, Pool

SLOWEST_INSIDE = LinkSpeed(latency_s=1e-5, bandwidth_bytes_per_s=12e9)
"""Between devices of a machine of which nothing is known: PCIe 3.0 x16."""


def holder(pool: Pool, nodes: Mapping[NodeId, Node], stage: Stage) -> Node:
    """The machine that speaks for a stage, with the slowest way between those that hold it as the way inside.

    `nodes` are those of the pool, by id.
    """
    node = nodes[stage.node]
    if not stage.others:
        return node
    return replace(node, inside=slowest_way(pool, stage.members))


def slowest_way(pool: Pool, members: Sequence[NodeId]) -> LinkSpeed:
    """Between any two of these machines; a bandwidth of 0 where a link is down."""
    links = [pool.link(source, target) for source in members for target in members if source != target]
    return LinkSpeed(max(link.latency_s for link in links), min(link.bandwidth_bytes_per_s for link in links))


def island_seconds(
    work: Work, shape: ModelShape, tokens: int, node: Node, devices: int, constants: Constants = IDEAL
) -> float:
    """Of `work` on `tokens` tokens, forward; `devices` is the tensor-parallel degree."""
    if devices == 1:
        return seconds(work, node.device, shape.dtype, constants)
    return seconds(work.times(1 / devices), node.device, shape.dtype, constants) + work.layers * all_reduce_seconds(
        shape, tokens, node, devices, constants
    )


def all_reduce_seconds(shape: ModelShape, tokens: int, node: Node, devices: int, constants: Constants = IDEAL) -> float:
    """Both all-reduces of one layer."""
    each_s, byte_s = all_reduce(node, devices, constants)
    return 2 * (each_s + message_bytes(shape, tokens) * byte_s)


def all_reduce(node: Node, devices: int, constants: Constants = IDEAL) -> tuple[float, float]:
    """Seconds of one all-reduce however small, and for each byte of what is reduced."""
    inside, own = node.inside or SLOWEST_INSIDE, constants.of(node.device)
    messages = 2 * (devices - 1)
    bandwidth = min(inside.bandwidth_bytes_per_s, own.reduce_bytes_per_s)
    return own.reduce_s + messages * inside.latency_s, messages / devices / bandwidth if bandwidth > 0 else inf
