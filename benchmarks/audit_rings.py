"""Rings in one process whose stages keep what crosses their boundaries, and the cheats that a stage may commit."""

import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.audit_models import STAGES
from muster.model.batch import Batch
from muster.model.load import load_stage
from muster.model.parallel.group import Seat
from muster.model.parallel.threads import thread_groups
from muster.model.settings import running
from muster.model.stage import Stage
from muster.model.weights import open_directory
from muster.serve.local_ring import LocalRing
from muster.serve.options import EngineOptions
from muster.spec.request import Request

PAGE_SIZE = 16
CPU = torch.device("cpu")
Tape = dict[int, dict[int, Tensor]]
"""By the first page of a sequence, by position: a row of the boundary."""


@lru_cache(maxsize=64)
def stage_of(path: Path, first: int, last: int, dtype: torch.dtype) -> Stage:
    return load_stage(open_directory(path), first, last, dtype, CPU)


@lru_cache(maxsize=16)
def parts_of(path: Path, first: int, last: int, dtype: torch.dtype, degree: int) -> tuple[Stage, ...]:
    weights = open_directory(path)
    return tuple(load_stage(weights, first, last, dtype, CPU, Seat(rank, degree)) for rank in range(degree))


class PartsCache:
    """The caches of an island's members as one."""

    def __init__(self, caches: list[Any]) -> None:
        self.caches = caches
        self.num_pages, self.page_size, self.step_pages = (
            caches[0].num_pages,
            caches[0].page_size,
            caches[0].step_pages,
        )

    def enter(self, rows: Any, copies: Any) -> Any:
        first, *_ = [cache.enter(rows, copies) for cache in self.caches]
        return first

    def expect(self, rows: Any, copies: Any) -> None:
        pass


class Island:
    """The members of a stage in threads of one process, as one stage."""

    def __init__(self, members: Sequence[Stage]) -> None:
        self._members, self._groups = members, thread_groups(len(members))
        one = members[0]
        self.is_first, self.is_last = one.is_first, one.is_last
        self.hidden_size, self.vocab_size, self.dtype, self.device = (
            one.hidden_size, one.vocab_size, one.dtype, one.device
        )  # fmt: skip

    def new_cache(self, num_pages: int, page_size: int) -> PartsCache:
        return PartsCache([member.new_cache(num_pages, page_size) for member in self._members])

    def run(self, batch: Batch, cache: PartsCache, x: Tensor, look: Callable[[Tensor], None]) -> Tensor:
        first, *others = self._members
        with running(), ThreadPoolExecutor(len(self._members)) as threads:
            beside = [
                threads.submit(member.run, batch, own, x, look, group)
                for member, own, group in zip(others, cache.caches[1:], self._groups[1:], strict=True)
            ]
            result = first.run(batch, cache.caches[0], x, look, self._groups[0])
            for one in beside:
                one.result()
        return result


Before = Callable[[Batch, Tensor], tuple[Batch, Tensor]]
After = Callable[[Batch, Any, Tensor], Tensor]


@dataclass
class Taped:
    """A stage that keeps what it gave away, and perhaps cheats. Implements `RunsLayers`."""

    inner: Any
    before: Before | None = None
    after: After | None = None
    tape: Tape = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def run(self, batch: Batch, cache: Any, x: Tensor, look: Callable[[Tensor], None]) -> Tensor:
        seen, given = (batch, x) if self.before is None else self.before(batch, x)
        out = self.inner.run(seen, cache, given, look)
        if self.after is not None:
            out = self.after(batch, cache, out)
        rows = batch.logits_rows_S if self.is_last else torch.arange(len(batch.positions_T))
        sequences = batch.page_tables_RP[:, 0].repeat_interleave(torch.tensor(batch.query_lengths))
        for place, row in enumerate(rows.tolist()):
            of = self.tape.setdefault(int(sequences[row]), {})
            of[int(batch.positions_T[row])] = out[place].clone()
        return out


@dataclass
class Ran:
    """One request: its tokens, and what crossed each boundary behind a stage, [n, H] or logits [m, V]."""

    request: Request
    tokens: list[int]
    outputs: list[Tensor]
    first_sampled: int

    def with_noise(self, stage: int, size: float) -> "Ran":
        """What a stage gave away with normal noise on top, of `size` times the root mean square of each row."""
        outputs = list(self.outputs)
        out = outputs[stage].float()
        noise = torch.randn(out.shape, generator=torch.Generator().manual_seed(9))
        outputs[stage] = (out + size * out.pow(2).mean(dim=1, keepdim=True).sqrt() * noise).to(outputs[stage].dtype)
        return replace(self, outputs=outputs)


def serve(
    stages: Sequence[Any], requests: Sequence[Request], *, prefill_tokens: int = 512, max_batch: int = 16
) -> list[Ran]:
    """All at once; each stage's output by request."""
    taped = [one if isinstance(one, Taped) else Taped(one) for one in stages]
    for one in taped:
        one.tape = {}
    pages = sum(-(-(len(one.prompt) + one.sampling.max_tokens) // PAGE_SIZE) + 1 for one in requests)
    options = EngineOptions(
        1024, num_microbatches=1, max_microbatches=1, prefill_tokens=prefill_tokens, max_batch=max_batch
    )
    ring = LocalRing(taped, [one.new_cache(pages, PAGE_SIZE) for one in taped], options)
    tokens: dict[str, list[int]] = {one.id: list(one.prompt) for one in requests}
    pages_of: dict[str, int] = {}
    for one in requests:
        ring.engine.submit(one)
    while ring.busy:
        for progress in ring.work():
            tokens[progress.request_id] += [sampled.token for sampled in progress.tokens]
        for sequence in ring.engine._sequences.values():
            if sequence.pages:
                pages_of[sequence.request.id] = sequence.pages[0]
    found = []
    for one in requests:
        outs = []
        for stage in taped:
            rows = stage.tape[pages_of[one.id]]
            outs.append(torch.stack([rows[position] for position in sorted(rows)]))
        first = min(taped[-1].tape[pages_of[one.id]])
        found.append(Ran(one, tokens[one.id], outs, first))
    return found


def plain_batch(start: int, count: int, pages: Tensor, wanted: Tensor) -> Batch:
    positions = torch.arange(start, start + count)
    return Batch(
        positions_T=positions,
        slots_T=pages[positions // PAGE_SIZE].long() * PAGE_SIZE + positions % PAGE_SIZE,
        page_tables_RP=pages[None, : -(-(start + count) // PAGE_SIZE)].to(torch.int32),
        query_lengths=(count,),
        context_lengths=(start + count,),
        logits_rows_S=wanted,
    )


def recompute(stage: Any, x: Tensor, first_sampled: int = 0, chunk: int = 256) -> Tensor:
    """One stage of one request in a chunked prefill, from what it was given: [n, H], or logits from a position on."""
    count = len(x)
    cache = stage.new_cache(-(-count // PAGE_SIZE), PAGE_SIZE)
    pages = torch.arange(-(-count // PAGE_SIZE))
    outs = []
    for start in range(0, count, chunk):
        length = min(chunk, count - start)
        wanted = torch.arange(min(length, max(0, first_sampled - start)), length)
        outs.append(stage.run(plain_batch(start, length, pages, wanted), cache, x[start : start + length], _nothing))
    return torch.cat(outs)


def _nothing(logits: Tensor) -> None:
    pass


def inputs_of(ran: Ran, stage: int, dtype: torch.dtype) -> Tensor:
    if stage == 0:
        return torch.tensor(ran.tokens[:-1])
    return ran.outputs[stage - 1].to(dtype)


def claims_and_truth(ran: Ran, path: Path, stage: int, dtype: torch.dtype = torch.float32, chunk: int = 256) -> Any:
    first, last = STAGES[stage]
    one = stage_of(path, first, last, dtype)
    start = ran.first_sampled if stage == len(STAGES) - 1 else 0
    return ran.outputs[stage], recompute(one, inputs_of(ran, stage, dtype), start, chunk)
