"""A small dress rehearsal: three sequences through stages in chunks and single tokens, compared with the dense model.

Used by the conformance check on tiny random models, and by tests. Pages are handed out in a scattered order, so that a
wrong page table cannot go unnoticed.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

from muster.model.batch import Batch
from muster.model.cache import KVCache
from muster.model.parallel.threads import thread_groups
from muster.model.settings import running
from muster.model.stage import Stage

PAGE_SIZE = 4
SCHEDULE = ((9, 0, 0), (5, 8, 0), (1, 3, 6), (1, 1, 1), (2, 1, 1), (1, 1, 1), (1, 1, 4))
"""New tokens of each sequence in each step: prefill alone, chunks together, chunks beside decodes, decodes alone."""
LENGTHS = tuple(sum(lengths) for lengths in zip(*SCHEDULE, strict=True))
NUM_PAGES = sum(-(-length // PAGE_SIZE) for length in LENGTHS) + 1


class Together:
    """The members of an island as one stage: each runs in a thread of its own."""

    def __init__(self, members: Sequence[Stage]) -> None:
        self._members = members
        self._groups = thread_groups(len(members))

    def new_cache(self, num_pages: int, page_size: int) -> list[KVCache]:
        return [member.new_cache(num_pages, page_size) for member in self._members]

    def run(self, batch: Batch, caches: list[KVCache], x: Tensor) -> Tensor:
        first, *others = self._members
        with running(), ThreadPoolExecutor(len(self._members)) as threads:
            beside = [
                threads.submit(member.run, batch, cache, x, group=group)
                for member, cache, group in zip(others, caches[1:], self._groups[1:], strict=True)
            ]
            result = first.run(batch, caches[0], x, group=self._groups[0])
            for one in beside:
                one.result()
        return result


def sequences(vocab_size: int, seed: int = 0) -> list[Tensor]:
    """Random token ids of the rehearsed lengths."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, vocab_size, (length,), generator=generator) for length in LENGTHS]


def largest_difference(dense: nn.Module, stages: Sequence[Stage | Together], tokens: Sequence[Tensor]) -> float:
    """Largest difference between a logit of the stages and the same logit of the dense model."""
    with torch.inference_mode():
        expected = [dense(input_ids=row[None], use_cache=False).logits[0].float() for row in tokens]
    actual = run_stages(stages, tokens)
    return max(float((a - b).abs().max()) for a, b in zip(actual, expected, strict=True))


def run_stages(stages: Sequence[Stage | Together], tokens: Sequence[Tensor]) -> list[Tensor]:
    """Logits of every token of every sequence, computed step by step through the stages."""
    caches: list[Any] = [stage.new_cache(NUM_PAGES, PAGE_SIZE) for stage in stages]
    logits: list[list[Tensor]] = [[] for _ in tokens]
    for batch, rows, starts in batches():
        lengths = list(batch.query_lengths)
        x = torch.cat([tokens[row][start : start + n] for row, start, n in zip(rows, starts, lengths, strict=True)])
        for stage, cache in zip(stages, caches, strict=True):
            x = stage.run(batch, cache, x)
        for row, part in zip(rows, torch.split(x, lengths), strict=True):
            logits[row].append(part)
    return [torch.cat(parts) for parts in logits]


def batches() -> Iterator[tuple[Batch, list[int], list[int]]]:
    """Each step's batch, with the sequence behind each of its rows and the position where its new tokens start."""
    tables = _page_tables()
    done = [0] * len(LENGTHS)
    for step in SCHEDULE:
        rows = [row for row, length in enumerate(step) if length]
        starts = [done[row] for row in rows]
        positions = [torch.arange(done[row], done[row] + step[row]) for row in rows]
        slots = [
            tables[row][at // PAGE_SIZE] * PAGE_SIZE + at % PAGE_SIZE for row, at in zip(rows, positions, strict=True)
        ]
        for row in rows:
            done[row] += step[row]
        used = [-(-done[row] // PAGE_SIZE) for row in rows]
        page_tables_RP = torch.zeros(len(rows), max(used), dtype=torch.int32)
        for index, (row, count) in enumerate(zip(rows, used, strict=True)):
            page_tables_RP[index, :count] = tables[row][:count]
        query_lengths = tuple(step[row] for row in rows)
        batch = Batch(
            positions_T=torch.cat(positions),
            slots_T=torch.cat(slots),
            page_tables_RP=page_tables_RP,
            query_lengths=query_lengths,
            context_lengths=tuple(done[row] for row in rows),
            logits_rows_S=torch.arange(sum(query_lengths)),
        )
        yield batch, rows, starts


def _page_tables() -> list[Tensor]:
    """Pages of each sequence, scattered; page 0 stays unused."""
    order = torch.randperm(NUM_PAGES - 1, generator=torch.Generator().manual_seed(1)) + 1
    counts = [-(-length // PAGE_SIZE) for length in LENGTHS]
    return list(torch.split(order, counts))
