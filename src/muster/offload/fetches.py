"""Which records the rows of a step need from disk, and what their tokens change. Once per step, for all layers.

pages named      [ 7 | 2 | 9 | 9 ]     the last is padding; of four pages in memory, 0 to 3, page 2 is one
records          [ 3 | 5 ]             the others, counted on disk, ascending
record_of        [ 1 | . | 0 ...       where each named page lies among the records
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from muster.model.batch import Batch
from muster.model.layout import Layout
from muster.offload.pages import Ints, TieredCache

Run = tuple[int, int]
"""Records [first, last) of a fetch that lie beside each other on disk."""


@dataclass(frozen=True, slots=True)
class Fetch:
    """For one group of rows that decode, or one row of a prompt."""

    tokens: Tensor
    """Of the step, whose queries attend."""
    named: Tensor
    """Pages in the order in which attention reads them."""
    pages: Ints
    """Those on disk, each once, ascending, counted there."""
    written: Ints
    """Of these, that get new keys and values."""
    read_runs: tuple[Run, ...]
    written_runs: tuple[Run, ...]
    new_tokens: Tensor
    """Tokens whose page lies on disk, with its place among the records and their place in it."""
    record_of_new: Tensor
    offset_of_new: Tensor
    record_of: Tensor
    """Of each named page on disk."""
    far_at: Tensor
    near_at: Tensor
    """Where the pages on disk, and those in memory, stand among the named ones."""
    alone: bool
    """It reads what an earlier fetch of the same layer writes."""

    @property
    def is_far(self) -> bool:
        """Whether all named pages are on disk."""
        return len(self.near_at) == 0


def fetches_of(
    batch: Batch, cache: TieredCache, layout: Layout, window: int | None, before: Sequence[Fetch]
) -> list[Fetch]:
    """In the order in which they are wanted; `before` are those of earlier pieces of the same layer."""
    written = np.unique(np.concatenate([np.zeros(0, np.int64), *(fetch.written for fetch in before)]))
    return [_fetch(batch, cache, tokens, named, written) for tokens, named in _rows(batch, layout, window)]


def _rows(batch: Batch, layout: Layout, window: int | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Tokens, and the pages that they read, of each group and then of each prompt."""
    decodes = layout.decode_rows(window)
    tokens_D = torch.arange(len(batch.positions_T)) if decodes.tokens_D is None else decodes.tokens_D
    for group in decodes.groups:
        yield tokens_D[group.start : group.stop], group.pages
    for row in layout.prefill_rows(window):
        pages = torch.zeros(0, dtype=torch.int64) if row.pages_P is None else row.pages_P
        yield torch.arange(row.start, row.stop), pages


def _fetch(batch: Batch, cache: TieredCache, tokens: Tensor, named: Tensor, earlier: Ints) -> Fetch:
    size, near = cache.page_size, cache.in_memory
    slots = batch.slots_T[tokens]
    is_new_far = slots >= near * size
    new_tokens, new_slots = tokens[is_new_far], slots[is_new_far]
    new_pages, offsets = (new_slots // size - near).numpy(), (new_slots % size)
    is_far = named >= near
    far = (named[is_far] - near).numpy()
    pages = np.unique(np.concatenate([far, new_pages]))
    written = np.unique(new_pages)
    # A page whose first place is written now has nothing to be read.
    fresh = np.unique(new_pages[offsets.numpy() == 0])
    is_read = ~np.isin(pages, fresh)
    return Fetch(
        tokens=tokens,
        named=named,
        pages=pages,
        written=written,
        read_runs=_runs(pages, is_read),
        written_runs=_runs(pages, np.isin(pages, written)),
        new_tokens=new_tokens,
        record_of_new=torch.from_numpy(np.searchsorted(pages, new_pages)),
        offset_of_new=offsets,
        record_of=torch.from_numpy(np.searchsorted(pages, far)),
        far_at=is_far.nonzero()[:, 0],
        near_at=(~is_far).nonzero()[:, 0],
        alone=bool(np.isin(pages[is_read], earlier).any()),
    )


def _runs(pages: Ints, chosen: "np.ndarray[tuple[int], np.dtype[np.bool_]]") -> tuple[Run, ...]:
    """Chosen records that follow each other on disk, together."""
    runs: list[list[int]] = []
    for index in np.flatnonzero(chosen).tolist():
        if runs and runs[-1][1] == index and pages[index] == pages[index - 1] + 1:
            runs[-1][1] = index + 1
        else:
            runs.append([index, index + 1])
    return tuple((first, last) for first, last in runs)
