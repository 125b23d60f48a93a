"""How much cache a quick plan swaps with host memory, where machines lend some. No search: figures bound each other."""

from collections.abc import Mapping, Sequence
from math import ceil

from muster.cost.swapping import swap_bytes_per_s
from muster.plan.quick.tables import PlanOptions
from muster.spec.model_shape import ModelShape
from muster.spec.plan import ServeSettings, Stage
from muster.spec.pool import Device, NodeId

_MOST_SHARE = 4
"""A slice is at most this part of the pages: two of them move, and the rest is for what stays (DeServe has as much)."""
_LEAST_GAIN = 10
"""Less than this part of the pages more is not worth the copying."""


def swap_pages(
    shape: ModelShape,
    stages: Sequence[Stage],
    devices: Mapping[NodeId, Device],
    settings: ServeSettings,
    step_s: float,
    options: PlanOptions,
) -> int:
    """For a ring of these stages whose slowest takes `step_s`; 0 where a machine lends no host memory.

    A slice passes in the time of a step, host memory has room for all pages, and no more are wanted than `options` say.
    """
    more = settings.num_microbatches - 2
    lacking = options.max_pages(shape) - settings.num_pages
    if more <= 0 or lacking <= 0:
        return 0
    most = min(ceil(lacking / more), settings.num_pages // _MOST_SHARE)
    for stage in stages:
        device = devices[stage.node]
        page = settings.page_size * shape.cache_bytes_per_token(stage.first, stage.last)
        if not page:
            continue
        room = device.host_memory_bytes // page - settings.num_pages
        most = min(most, int(step_s * swap_bytes_per_s(device) / page), room // more)
    return most if most * more * _LEAST_GAIN >= settings.num_pages else 0


def host_has_room(
    shape: ModelShape, stages: Sequence[Stage], devices: Mapping[NodeId, Device], settings: ServeSettings
) -> bool:
    """Whether all machines lend the host memory that these settings need."""
    return all(
        settings.host_tokens * shape.cache_bytes_per_token(stage.first, stage.last)
        <= devices[stage.node].host_memory_bytes
        for stage in stages
    )
