"""Bytes that each tier must have for a stage that keeps a part elsewhere, affine in the shares. Pure arithmetic.

    device  weights, cache and hidden states at home there; where any weights come from elsewhere, two buffers, each for
            a whole layer (of experts no more than eight), because in whole tensors some layer may keep none; the
            workspace of the largest step, as for any stage; with attention on the device over cache elsewhere, two
            microbatches of one layer's cache
    host    what is at home there; on its way from disk, two layers' weights and two microbatches of one layer's cache
    disk    what is at home there

On a machine whose device is its processor, host memory is used where it lies: only what comes from disk needs buffers.
The cache of a block is as large as all its sequences are at their longest; of a diagonal block, whose sequences are of
all ages, as they are on average. `blocks` are in flight at once, and each has a cache.
"""

from math import ceil

import numpy as np

from muster.cost.memory import SCORED_AT_ONCE, WorkspaceOptions, workspace_bytes
from muster.cost.offload.load import StageSizes
from muster.cost.offload.step import BlockSize, Floats, num_shares, places
from muster.spec.model_shape import ModelShape

PAGE_TOKENS = 16
BUFFERS = 2
"""Of each kind: one is used while the other is filled."""


def cache_tokens(size: BlockSize) -> int:
    """Of one block: in the orders `rows` only one microbatch has any."""
    tokens = size.prompt + size.answer
    if size.order == "diagonal":
        return ceil(size.sequences * (size.prompt + (size.answer + PAGE_TOKENS) / 2))
    sequences = size.microbatch if size.order == "rows" else size.sequences
    return sequences * PAGE_TOKENS * ceil(tokens / PAGE_TOKENS)


def hidden_tokens(size: BlockSize) -> float:
    """Whose hidden states wait between two layers: those of all prompts that pass in one step, and of a token each."""
    return size.joining * size.prompt + (size.sequences if size.order == "diagonal" else 0)


def tier_bytes(
    shape: ModelShape, last: int, sizes: StageSizes, size: BlockSize, in_place: bool, resident: bool = False
) -> Floats:
    """(3, shares + 1): device, host, disk; the last column is the constant. `resident`: no weights are elsewhere."""
    need = np.zeros((3, num_shares(sizes) + 1))
    at = places(sizes)
    cache = size.blocks * cache_tokens(size) * sizes.cache_bytes
    hidden = hidden_tokens(size) * sizes.hidden_bytes
    for tier in range(3):
        for number, group in enumerate(sizes.groups):
            need[tier, 3 * number + tier] = group.nbytes
        need[tier, at["cache"].start + tier] = cache
        need[tier, at["hidden"].start + tier] = hidden
    away = (2,) if in_place else (1, 2)
    for number, group in enumerate(sizes.groups):
        if not resident:
            need[0, -1] += BUFFERS * group.piece * group.largest_layer
        if not in_place:
            need[1, 3 * number + 2] += BUFFERS * group.piece * group.largest_layer
    longest = PAGE_TOKENS * ceil((size.prompt + size.answer) / PAGE_TOKENS)
    microbatch = size.microbatch * longest * sizes.largest_cache
    if size.attention == "device":
        for tier in away:
            need[0, at["cache"].start + tier] += BUFFERS * microbatch
    need[0 if in_place else 1, at["cache"].start + 2] += BUFFERS * microbatch
    options = WorkspaceOptions(
        prefill_tokens=max(size.prompt_tokens, size.microbatch), samples=max(SCORED_AT_ONCE, size.microbatch)
    )
    need[0, -1] += workspace_bytes(shape, last, options)
    return need
