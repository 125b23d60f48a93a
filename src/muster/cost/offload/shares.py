"""The shares of a stage's parts as a plan has them (`MemoryPolicy`), and as costs do (one for each group). Pure.

A plan says how much of all weights a tier holds. Which of them follows: the device is filled with what every step
reads, then with the experts that are wanted most; host memory with what comes next in that order; the disk has the
rest.
"""

from math import floor

import numpy as np

from muster.cost.offload.load import StageSizes
from muster.cost.offload.step import BlockSize, Floats
from muster.spec.plan import MemoryPolicy, ServeSettings
from muster.spec.tiers import TIERS
from muster.spec.workload import ServeWorkload


def policy_of(sizes: StageSizes, shares: Floats, size: BlockSize) -> MemoryPolicy:
    parts = shares.reshape(-1, 3)
    groups = [(group, part) for group, part in zip(sizes.groups, parts, strict=False) if group.name != "embedding"]
    total = sum(group.nbytes for group, _ in groups)
    weights = sum((group.nbytes * part for group, part in groups), np.zeros(3)) / total
    embedding = [part for group, part in zip(sizes.groups, parts, strict=False) if group.name == "embedding"]
    (weights_here, weights_there), (cache_here, cache_there), (hidden_here, hidden_there) = map(
        _told, (weights, parts[-2], parts[-1])
    )
    return MemoryPolicy(
        weights_here,
        weights_there,
        cache_here,
        cache_there,
        hidden_here,
        hidden_there,
        microbatch=size.microbatch,
        num_microbatches=size.num_microbatches,
        order=size.order,
        attention=size.attention,
        prompt_tokens=size.prompt_tokens,
        embedding=TIERS[int(np.argmax(embedding[0]))] if embedding else "device",
    )


_TOLD = 1e6


def _told(part: Floats) -> tuple[float, float]:
    """On the device and in host memory, rounded down to a millionth, so that neither is promised more than it has."""
    if part[2] <= 0:  # all is in memory: what the device does not have, the host has
        device = floor(part[0] * _TOLD) / _TOLD
        return device, round(1 - device, 6)
    return floor(part[0] * _TOLD) / _TOLD, floor(part[1] * _TOLD) / _TOLD


def shares_of(sizes: StageSizes, policy: MemoryPolicy) -> Floats:
    """As in `cost/offload/step.places`."""
    total = sum(group.nbytes for group in sizes.groups if group.name != "embedding")
    left = [policy.weights_on_device * total, policy.weights_on_host * total]
    parts = []
    for group in sizes.groups:
        if group.name == "embedding":
            parts.append([float(tier == policy.embedding) for tier in TIERS])
            continue
        here = min(left[0], group.nbytes)
        there = min(left[1], group.nbytes - here)
        left = [left[0] - here, left[1] - there]
        parts.append(_thirds(here / group.nbytes, there / group.nbytes))
    parts.append(_thirds(policy.cache_on_device, policy.cache_on_host))
    parts.append(_thirds(policy.activations_on_device, policy.activations_on_host))
    return np.array(parts, dtype=float).ravel()


def _thirds(device: float, host: float) -> list[float]:
    disk = max(0.0, 1 - device - host)
    return [device, host, disk if disk > 1e-5 else 0.0]


def size_of(policy: MemoryPolicy, settings: ServeSettings, workload: ServeWorkload) -> BlockSize:
    """How a stage cuts its blocks, where every request is as the workload says."""
    microbatch = policy.microbatch or -(-max(1, settings.batch) // policy.num_microbatches)
    return BlockSize(
        microbatch=microbatch,
        num_microbatches=policy.num_microbatches,
        prompt=workload.prompt_tokens,
        answer=workload.output_tokens,
        order=policy.order,
        attention=policy.attention,
        prompt_tokens=policy.prompt_tokens or 512,
        blocks=settings.num_microbatches,
    )
