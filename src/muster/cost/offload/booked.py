"""What a stage that offloads makes of the bytes that it was promised: the same books for whoever assigns and runs it.

    promised on the device = workspace + cache in memory + ring for cache from disk + (weights that stay + two buffers)

On a processor, what lies in host memory is used where it lies, so there both promises are one. Pure arithmetic.
"""

from dataclasses import dataclass

from muster.cost.memory import WorkspaceOptions, dtype_bytes, workspace_bytes
from muster.errors import DoesNotFit
from muster.spec.model_shape import ModelShape
from muster.spec.plan import MemoryPolicy, ServeSettings

BUFFERS = 2
RING_SHARE = 8
"""The ring through which cache comes from disk takes at most this part of the promise."""
LEAST_RING_BYTES, MOST_RING_BYTES = 2**24, 2**28
SMALL_BYTES = 2**23
"""Norms and the like, which stay, and ends of blocks that are read along."""
PIECE_ROWS, PIECE_TOKENS = 256, 512
PIECES = (512, 256, 128, 64)
"""Of a piece, where the policy leaves it open."""


@dataclass(frozen=True, slots=True)
class Booked:
    pages_in_memory: int
    ring_bytes: int
    """0 where no page lies on disk."""
    piece_tokens: int
    """Of prompts that pass a layer at once: as many as were asked for, or as the workspace has room for."""
    weights_bytes: int
    """For weights that stay and the buffers of those that come."""


def booked(shape: ModelShape, first: int, last: int, policy: MemoryPolicy, work: ServeSettings) -> Booked:
    """Raises `DoesNotFit`, with the least that would do, where two layers find no room."""
    asked = policy.prompt_tokens or PIECE_TOKENS
    pieces = [tokens for tokens in (asked, *PIECES) if tokens <= asked]
    found = [_with_pieces(shape, (first, last), policy, work, tokens) for tokens in pieces]
    enough = [one for one in found if one.weights_bytes >= _buffers(shape, first, last)]
    if not enough:
        promised = policy.device_bytes + policy.host_bytes
        missing = _buffers(shape, first, last) - found[-1].weights_bytes
        raise DoesNotFit(
            f"Two layers of {shape.name} take {_buffers(shape, first, last) / 1e6:.0f} MB beside the workspace, and of "
            f"the {promised / 1e6:.0f} MB that are lent for layers {missing / 1e6:.0f} MB are missing; lend "
            f"{missing / 1e6:.0f} MB more with --memory."
        )
    return enough[0]


def _buffers(shape: ModelShape, first: int, last: int) -> int:
    """Of the two largest layers."""
    return sum(sorted(shape.layer_bytes[first:last], reverse=True)[:BUFFERS]) + SMALL_BYTES


def _with_pieces(
    shape: ModelShape, layers: tuple[int, int], policy: MemoryPolicy, work: ServeSettings, piece_tokens: int
) -> Booked:
    """`weights_bytes` is what is left, and may be too little."""
    promised = policy.device_bytes + policy.host_bytes
    rows = min(policy.microbatch or PIECE_ROWS, piece_tokens)
    steps = WorkspaceOptions(prefill_tokens=max(piece_tokens, rows), samples=max(work.batch, 1))
    hidden = 4 * (work.prefill_tokens + work.batch) * shape.hidden_size * dtype_bytes(shape.dtype)
    rest = promised - workspace_bytes(shape, layers[1], steps) - hidden - SMALL_BYTES
    page = work.page_size * shape.cache_bytes_per_token(*layers)
    share = min(1.0, policy.cache_on_device + policy.cache_on_host)
    pages = work.num_pages if share > 1 - 1e-5 else int(share * work.num_pages)
    ring, buffers = 0, _buffers(shape, *layers)
    # The cache in memory makes way for the two layers without which nothing runs.
    if pages < work.num_pages or pages * page + buffers > rest:
        ring = max(LEAST_RING_BYTES, min(promised // RING_SHARE, MOST_RING_BYTES))
        pages = min(pages, max(0, (rest - ring - buffers) // max(1, page)))
    return Booked(pages, ring, piece_tokens, rest - ring - pages * page)


def streamed_bytes(shape: ModelShape, first: int, last: int, policy: MemoryPolicy) -> float:
    """That one step reads from disk: weights."""
    share = max(0.0, 1.0 - policy.weights_on_device - policy.weights_on_host)
    return share * shape.read_bytes(first, last)
