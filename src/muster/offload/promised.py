"""A stage that keeps to what was promised to it: so many bytes of memory in all, so many of a disk.

The policy says how much should stay in memory; the books (`cost/offload/booked`) say what there is room for, and the
smaller of both is kept.
"""

import torch

from muster.cost.offload.booked import PIECE_ROWS, Booked, booked
from muster.errors import Unsupported
from muster.model.cache import KVCache
from muster.model.shape import torch_dtype
from muster.model.stage import Stage
from muster.model.weights import Weights
from muster.offload.load import load_offloaded
from muster.offload.microbatches import PieceLimits
from muster.offload.pages import TieredCache
from muster.offload.stage import DiskRoom, WeightStreamOptions
from muster.spec.model_shape import ModelShape
from muster.spec.plan import MemoryPolicy, ServeSettings


def load_promised(
    weights: Weights,
    shape: ModelShape,
    layers: tuple[int, int],
    device: torch.device,
    memory: MemoryPolicy,
    work: ServeSettings,
    disk: DiskRoom,
) -> Stage:
    """Layers [first, last) within `memory.device_bytes` and `memory.host_bytes`; its `new_cache` goes by `memory`, too.

    Raises `DoesNotFit` where two layers find no room, `MachineTrouble` where the disk has none, and as `load_stage`.
    """
    if device.type != "cpu":
        raise Unsupported("Layers come from disk on processors only so far; lend a graphics card what fits on it.")
    books = booked(shape, *layers, memory, work)
    cache_bytes = (work.num_pages - books.pages_in_memory) * work.page_size * shape.cache_bytes_per_token(*layers)
    room = DiskRoom(disk.folder, max(0, disk.nbytes - cache_bytes))
    options = WeightStreamOptions(
        limits=PieceLimits(min(memory.microbatch or PIECE_ROWS, books.piece_tokens), books.piece_tokens),
        staging_bytes=books.ring_bytes,
    )
    share = memory.weights_on_device + memory.weights_on_host
    stage, _ = load_offloaded(
        weights, *layers, torch_dtype(shape.dtype), device, share, room, options, most_bytes=books.weights_bytes
    )
    _give_cache(stage, books, DiskRoom(disk.folder, cache_bytes + 4096 * work.num_pages * (layers[1] - layers[0])))
    return stage


def _give_cache(stage: Stage, books: Booked, room: DiskRoom) -> None:
    plain = stage.new_cache

    def new_cache(num_pages: int, page_size: int) -> KVCache:
        if not books.ring_bytes:
            return plain(num_pages, page_size)
        near = min(num_pages, books.pages_in_memory)
        return TieredCache(
            stage.head_sizes, num_pages, near, page_size, stage.dtype, stage.device, room.folder, room.nbytes
        )

    stage.new_cache = new_cache  # type: ignore[method-assign]
