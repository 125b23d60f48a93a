"""Index tensors for attention over a page table, made once per step and shared by all layers. No keys, no values here.

A batch falls into *decode rows* (one new token; sorted by length and answered group by group, each group padded to
its longest row and small enough for its keys to stay in the processor's cache) and *prefill rows* (answered one by
one). With a sliding window only the pages that the window touches are read.

    pages of a row     [ 7 | 2 | 9 | 4 ]     context 13, page size 4
    window 5                    9   4        keys 8..12 are visible to the token at position 12

Legend as in `batch`; D decode rows, G the rows of a decode group, L the number of keys read (padded).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor

from muster.model.batch import Batch

PADDING_SHARE = 0.6
"""A row joins a decode group only if it is at least this share of the group's longest row."""


@dataclass(frozen=True, slots=True)
class DecodeGroup:
    start: int
    stop: int
    """Rows [start, stop) of the decode rows in their sorted order."""
    pages: Tensor
    """All pages of all rows, row after row: [G * P]."""
    bias_G11L: Tensor
    """0 where a key is visible, minus infinity elsewhere."""


@dataclass(frozen=True, slots=True)
class DecodeRows:
    tokens_D: Tensor | None
    """Where the sorted rows' tokens lie in T; None when they are T in its own order."""
    groups: list[DecodeGroup]


@dataclass(frozen=True, slots=True)
class PrefillRow:
    start: int
    stop: int
    """Tokens [start, stop) of T."""
    pages_P: Tensor | None
    """None: all keys are new in this step, so they need not be read back."""
    bias_TL: Tensor | None
    """None: plain causal attention over the new keys."""


@dataclass
class Layout:
    """Index tensors of one batch, per window size; built when first asked for."""

    batch: Batch
    page_size: int
    dtype: torch.dtype
    keys_per_group: int
    """Most keys (padding included) that a decode group reads."""
    _decode: dict[int | None, DecodeRows] = field(default_factory=dict)
    _prefill: dict[int | None, list[PrefillRow]] = field(default_factory=dict)

    def decode_rows(self, window: int | None) -> DecodeRows:
        if window not in self._decode:
            self._decode[window] = self._decode_rows(window)
        return self._decode[window]

    def prefill_rows(self, window: int | None) -> list[PrefillRow]:
        if window not in self._prefill:
            lengths = self.batch.query_lengths
            rows = [row for row, length in enumerate(lengths) if length > 1]
            starts = [0, *accumulate(lengths)]
            self._prefill[window] = [self._prefill_row(row, starts[row], window) for row in rows]
        return self._prefill[window]

    def _decode_rows(self, window: int | None) -> DecodeRows:
        lengths = self.batch.query_lengths
        visible = [min(length, window) if window else length for length in self.batch.context_lengths]
        rows = sorted((row for row, length in enumerate(lengths) if length == 1), key=lambda row: -visible[row])
        pages = [visible[row] // self.page_size + 2 for row in rows]  # a window may start and end within a page
        groups = []
        start = 0
        for stop in range(1, len(rows) + 1):
            full = stop == len(rows) or (
                pages[stop] < PADDING_SHARE * pages[start]
                or (stop + 1 - start) * pages[start] * self.page_size > self.keys_per_group
            )
            if full:
                groups.append(self._decode_group(start, rows[start:stop], window))
                start = stop
        starts = [0, *accumulate(lengths)]
        tokens = [starts[row] for row in rows]
        in_order = tokens == list(range(starts[-1]))
        tokens_D = None if in_order else torch.tensor(tokens, device=self.batch.page_tables_RP.device)
        return DecodeRows(tokens_D, groups)

    def _decode_group(self, start: int, rows: Sequence[int], window: int | None) -> DecodeGroup:
        device = self.batch.page_tables_RP.device
        context = [self.batch.context_lengths[row] for row in rows]
        first_key = [max(0, length - window) if window else 0 for length in context]
        pages_GP, positions_GL = self._pages(rows, first_key, context)
        visible_GL = positions_GL < torch.tensor(context, device=device)[:, None]
        if window:
            visible_GL &= positions_GL >= torch.tensor(first_key, device=device)[:, None]
        return DecodeGroup(start, start + len(rows), pages_GP.flatten(), self._bias(visible_GL)[:, None, None, :])

    def _prefill_row(self, row: int, start: int, window: int | None) -> PrefillRow:
        new, context = self.batch.query_lengths[row], self.batch.context_lengths[row]
        all_new = new == context
        if all_new and (not window or context <= window):
            return PrefillRow(start, start + new, None, None)
        device = self.batch.page_tables_RP.device
        query_T1 = torch.arange(context - new, context, device=device)[:, None]
        if all_new:
            pages_P, key_L = None, torch.arange(context, device=device)
        else:
            first_key = max(0, context - new + 1 - window) if window else 0
            pages_1P, key_1L = self._pages([row], [first_key], [context])
            pages_P, key_L = pages_1P[0], key_1L[0]
        visible_TL = key_L <= query_T1
        if window:
            visible_TL &= key_L > query_T1 - window
        return PrefillRow(start, start + new, pages_P, self._bias(visible_TL))

    def _pages(self, rows: Sequence[int], first: Sequence[int], stop: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Pages that cover keys [first, stop) of each row, and the position of each key read.

        Padding repeats the row's own last page: were it another row's, an overflow there would leak into this one.
        """
        tables_RP = self.batch.page_tables_RP
        device, size = tables_RP.device, self.page_size
        first_page = [key // size for key in first]
        last_page = [(key - 1) // size for key in stop]
        width = max(last - first for first, last in zip(first_page, last_page, strict=True)) + 1
        columns_GP = torch.tensor(first_page, device=device)[:, None] + torch.arange(width, device=device)
        positions_GPS = columns_GP[:, :, None] * size + torch.arange(size, device=device)
        columns_GP = torch.minimum(columns_GP, torch.tensor(last_page, device=device)[:, None])
        tables_GP = tables_RP[torch.tensor(rows, device=device)]
        return tables_GP.gather(1, columns_GP).long(), positions_GPS.flatten(1)

    def _bias(self, visible: Tensor) -> Tensor:
        return torch.zeros(visible.shape, dtype=self.dtype, device=visible.device).masked_fill_(~visible, -torch.inf)
