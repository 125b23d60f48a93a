"""A request through the layers once more, in one chunked prefill over prompt and answer. Decides nothing.

Legend: n positions, H hidden size, V vocabulary, m positions whose logits are wanted.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from muster.model.batch import Batch
from muster.model.load import load_stage
from muster.model.stage import Stage
from muster.model.weights import Weights

PAGE_SIZE = 16
CHUNK = 256
CPU = torch.device("cpu")


def recomputed(stage: Stage, x: Tensor, first_logits: int = 0, chunk: int = CHUNK) -> Tensor:
    """What a stage gives for `x`, token ids [n] or hidden states [n, H]: [n, H], or logits from a position on, [m, V].

    Errors do not add up from stage to stage: `x` is what the stage says it was given.
    """
    count = len(x)
    pages = torch.arange(-(-count // PAGE_SIZE))
    cache = stage.new_cache(len(pages), PAGE_SIZE)
    outs = []
    for start in range(0, count, chunk):
        length = min(chunk, count - start)
        wanted = torch.arange(min(length, max(0, first_logits - start)), length)
        if stage.is_last and not len(wanted):
            wanted = torch.tensor([length - 1])  # a step without logits is none; these are dropped again
            stage.run(_batch(start, length, pages, wanted), cache, x[start : start + length])
            continue
        outs.append(stage.run(_batch(start, length, pages, wanted), cache, x[start : start + length]))
    return torch.cat(outs)


def _batch(start: int, count: int, pages: Tensor, wanted: Tensor) -> Batch:
    positions = torch.arange(start, start + count)
    return Batch(
        positions_T=positions,
        slots_T=pages[positions // PAGE_SIZE] * PAGE_SIZE + positions % PAGE_SIZE,
        page_tables_RP=pages[None, : -(-(start + count) // PAGE_SIZE)].to(torch.int32),
        query_lengths=(count,),
        context_lengths=(start + count,),
        logits_rows_S=wanted,
    )


def stages_of(weights: Weights, cuts: Sequence[int], dtype: torch.dtype) -> Iterator[Stage]:
    """One after the other; whoever keeps none needs the memory of one."""
    for first, last in pairwise(cuts):
        yield load_stage(weights, first, last, dtype, CPU)


def boundaries(
    stages: Iterator[Stage] | Sequence[Stage], tokens: Sequence[int], first_logits: int, chunk: int = CHUNK
) -> Iterator[Tensor]:
    """Behind each stage what a request gives there; the last token is only emitted, never computed."""
    x = torch.tensor(tokens[:-1], dtype=torch.int64)
    for stage in stages:
        x = recomputed(stage, x, first_logits, chunk)
        yield x
