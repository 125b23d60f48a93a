"""The rows of a step become the tensors of a batch. Decides nothing.

row      start 5, length 3, pages (4, 9), page size 4      positions  5        6        7
                                                           page       9        9        9       pages[position // 4]
                                                           slot       9*4+1    9*4+2    9*4+3
"""

from collections.abc import Sequence

import numpy as np
import torch

from muster.model.batch import Batch
from muster.model.cache import Places
from muster.wire.messages.generate import Row


def make_batch(rows: Sequence[Row], page_size: int, device: torch.device, places: Places | None = None) -> Batch:
    """Rows must have passed `accept` or come from the scheduler: every position has its page.

    `places` says where each page lies, by default at the place of its number.
    """
    starts_R = np.array([row.start for row in rows], dtype=np.int64)
    lengths_R = np.array([row.length for row in rows], dtype=np.int64)
    tables_RP = np.zeros((len(rows), max(len(row.pages) for row in rows)), dtype=np.int32)
    for index, row in enumerate(rows):
        tables_RP[index, : len(row.pages)] = row.pages if places is None else places[list(row.pages)]
    ends_R = np.cumsum(lengths_R)
    row_T = np.repeat(np.arange(len(rows)), lengths_R)
    positions_T = np.arange(ends_R[-1]) + np.repeat(starts_R - (ends_R - lengths_R), lengths_R)
    pages_T = tables_RP[row_T, positions_T // page_size].astype(np.int64)
    sampled = [np.arange(end - row.samples, end) for row, end in zip(rows, ends_R, strict=True)]
    scored = [np.arange(end - row.length, end - row.length + row.scores) for row, end in zip(rows, ends_R, strict=True)]
    scored_C = np.concatenate(scored)
    return Batch(
        positions_T=torch.from_numpy(positions_T).to(device),
        slots_T=torch.from_numpy(pages_T * page_size + positions_T % page_size).to(device),
        page_tables_RP=torch.from_numpy(tables_RP).to(device),
        query_lengths=tuple(lengths_R.tolist()),
        context_lengths=tuple((starts_R + lengths_R).tolist()),
        logits_rows_S=torch.from_numpy(np.concatenate(sampled)).to(device),
        scored_rows_C=torch.from_numpy(scored_C).to(device) if len(scored_C) else None,
    )
