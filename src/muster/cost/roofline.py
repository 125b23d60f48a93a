"""Seconds of a stage and of a transfer, by the roofline: memory or arithmetic, whichever is slower.

Williams, Waterman and Patterson, "Roofline" (2009). Knows nothing of caches, kernels or queues: real code is slower, by
about the same factor on every machine, which is why the planner can compare stages with it.
"""

import math

from muster.cost.memory import dtype_bytes
from muster.spec.model_shape import ModelShape
from muster.spec.pool import Device, LinkSpeed

UNMEASURED_FLOPS_PER_S = 2e10
UNMEASURED_BANDWIDTH_BYTES_PER_S = 5e9
"""A machine that has not said how fast it is counts as a slow laptop, so that nobody gains by silence."""


def flops_per_s(device: Device, dtype: str) -> float:
    """Matrix-multiply speed in FLOP/s for `dtype`; the speed of another measured dtype where this one is missing."""
    speeds = [speed for speed in (device.flops_per_s.get(dtype), *device.flops_per_s.values()) if speed]
    return speeds[0] if speeds else UNMEASURED_FLOPS_PER_S


def memory_bandwidth(device: Device) -> float:
    """Bytes per second."""
    return device.memory_bandwidth_bytes_per_s or UNMEASURED_BANDWIDTH_BYTES_PER_S


def bytes_read(shape: ModelShape, first: int, last: int, tokens: int, context: int) -> int:
    """Bytes that one step of `tokens` sequences with `context` tokens each reads on layers [first, last).

    Of the embedding only one row per token is read, so it does not count; the output projection is read whole.
    """
    return shape.read_bytes(first, last) + tokens * context * shape.cache_bytes_per_token(first, last)


def stage_seconds(shape: ModelShape, first: int, last: int, device: Device, tokens: int, context: int = 0) -> float:
    """Seconds of layers [first, last) for one decode step of `tokens` sequences, each over `context` cached tokens."""
    reading = bytes_read(shape, first, last, tokens, context) / memory_bandwidth(device)
    computing = tokens * shape.flops_per_token(first, last) / flops_per_s(device, shape.dtype)
    return max(reading, computing)


def wire_seconds(link: LinkSpeed, nbytes: int) -> float:
    """Seconds for which `nbytes` keep the link busy; infinite on a link without bandwidth (one known to be broken)."""
    return nbytes / link.bandwidth_bytes_per_s if link.bandwidth_bytes_per_s > 0 else math.inf


def transfer_seconds(link: LinkSpeed, nbytes: int) -> float:
    """Seconds from the first byte sent to the last byte received: latency plus time on the wire."""
    return link.latency_s + wire_seconds(link, nbytes)


def hidden_bytes(shape: ModelShape, tokens: int) -> int:
    """Bytes of the hidden state that one stage hands to the next."""
    return tokens * shape.hidden_size * dtype_bytes(shape.dtype)
