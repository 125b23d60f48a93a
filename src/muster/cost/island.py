"""Seconds and bytes of a stage that is split over several equal devices of one machine. Knows no plan.

Tensor parallelism of degree D: each device does 1/D of the work, and every layer ends two all-reduces of the hidden
state, each 2 (D - 1) messages of 1/D of it (HexGen, arXiv 2311.11514, section 3.2; the cost model in its repository).
"""

from math import ceil

from muster.cost.memory import WorkspaceOptions, workspace_bytes
from muster.cost.pace import IDEAL, Constants, seconds
from muster.cost.roofline import hidden_bytes, transfer_seconds
from muster.cost.work import Work
from muster.spec.model_shape import ModelShape
from muster.spec.pool import LinkSpeed, Node

SLOWEST_INSIDE = LinkSpeed(latency_s=1e-5, bandwidth_bytes_per_s=12e9)
"""Between devices of a machine of which nothing is known: PCIe 3.0 x16."""


def island_seconds(
    work: Work, shape: ModelShape, tokens: int, node: Node, devices: int, constants: Constants = IDEAL
) -> float:
    """Of `work` on `tokens` tokens, forward; `devices` is the tensor-parallel degree."""
    if devices == 1:
        return seconds(work, node.device, shape.dtype, constants)
    return seconds(work.times(1 / devices), node.device, shape.dtype, constants) + work.layers * all_reduce_seconds(
        shape, tokens, node, devices
    )


def all_reduce_seconds(shape: ModelShape, tokens: int, node: Node, devices: int) -> float:
    """Both all-reduces of one layer."""
    inside = node.inside or SLOWEST_INSIDE
    part = ceil(hidden_bytes(shape, tokens) / devices)
    return 2 * 2 * (devices - 1) * transfer_seconds(inside, part)


def device_bytes(
    shape: ModelShape, first: int, last: int, cache_tokens: int, options: WorkspaceOptions, devices: int = 1
) -> tuple[int, int, int]:
    """Weights, cache and workspace of each device; the workspace is not split (a device holds whole hidden states)."""
    weights = ceil(shape.weight_bytes(first, last) / devices)
    cache = ceil(cache_tokens * shape.cache_bytes_per_token(first, last) / devices)
    return weights, cache, workspace_bytes(shape, last, options)
