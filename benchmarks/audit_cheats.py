"""What a stage of a ring may do instead of its work, each as a way to run the ring of `audit_rings`."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.audit_models import STAGES, Change, altered, of_layers, rounded_to, shuffled
from benchmarks.audit_rings import PAGE_SIZE, Ran, Taped, inputs_of, recompute, serve, stage_of
from muster.model.batch import Batch
from muster.spec.request import Request

MIDDLE, LAST = 1, len(STAGES) - 1
KEPT_PAGES = 2
"""A shorter context: so many pages of 16 tokens, the last of which is not full."""


@dataclass(frozen=True)
class Cheat:
    name: str
    stage: int
    """Which one cheats."""
    run: Callable[["Bench", list[Request]], list[Ran]]
    must: bool = True
    """Whether 64 tokens must do."""
    in_prompt: bool = False
    """Whether it is looked for in the first tokens of the prompt rather than in those that were generated."""


@dataclass
class Bench:
    """One model, in one dtype, and room for what is made of it."""

    name: str
    path: Path
    folder: Path
    dtype: torch.dtype

    def stages(self) -> list[Any]:
        return [stage_of(self.path, first, last, self.dtype) for first, last in STAGES]

    def altered(self, label: str, change: dict[int, Change]) -> Path:
        target = self.folder / f"{self.name}-{label}"
        return target if target.exists() else altered(self.path, target, change)

    def with_stage(self, index: int, stage: Any) -> list[Any]:
        stages = self.stages()
        stages[index] = stage
        return stages


def _weights(label: str, layers: Sequence[int], change: Change) -> Callable[[Bench, list[Request]], list[Ran]]:
    def run(bench: Bench, requests: list[Request]) -> list[Ran]:
        path = bench.altered(label, of_layers(layers, change))
        return serve(bench.with_stage(MIDDLE, stage_of(path, *STAGES[MIDDLE], bench.dtype)), requests)

    return run


def _skipped(bench: Bench, requests: list[Request]) -> list[Ran]:
    first, last = STAGES[MIDDLE]
    return serve(bench.with_stage(MIDDLE, stage_of(bench.path, first, last - 1, bench.dtype)), requests)


def _changed_prompt(bench: Bench, requests: list[Request]) -> list[Ran]:
    """The first stage reads another token at position 5."""

    def before(batch: Batch, x: Tensor) -> tuple[Batch, Tensor]:
        return batch, torch.where(batch.positions_T == 5, (x + 17) % 1000 + 1, x)

    return serve(bench.with_stage(0, Taped(bench.stages()[0], before=before)), requests)


def _shorter(bench: Bench, requests: list[Request]) -> list[Ran]:
    """While decoding, attention sees the last pages only."""

    def before(batch: Batch, x: Tensor) -> tuple[Batch, Tensor]:
        if max(batch.query_lengths) > 1:
            return batch, x
        cut = [max(0, (length - 1) // PAGE_SIZE + 1 - KEPT_PAGES) for length in batch.context_lengths]
        tables = torch.stack([table.roll(-pages) for table, pages in zip(batch.page_tables_RP, cut, strict=True)])
        lengths = tuple(length - PAGE_SIZE * pages for length, pages in zip(batch.context_lengths, cut, strict=True))
        return replace(batch, page_tables_RP=tables, context_lengths=lengths), x

    return serve(bench.with_stage(MIDDLE, Taped(bench.stages()[MIDDLE], before=before)), requests)


def _stale(bench: Bench, requests: list[Request]) -> list[Ran]:
    """Two pages of each sequence hold what belongs to another."""

    def after(batch: Batch, cache: Any, out: Tensor) -> Tensor:
        prefilled = torch.tensor([length > 1 for length in batch.query_lengths])
        for page in (1, 2):
            pages = batch.page_tables_RP[prefilled, page].long()
            for tensor in cache.tensors:
                tensor[pages] = tensor[pages.roll(1)] if len(pages) > 1 else -tensor[pages]
        return out

    return serve(bench.with_stage(MIDDLE, Taped(bench.stages()[MIDDLE], after=after)), requests)


def _fp8(bench: Bench, requests: list[Request]) -> list[Ran]:
    def after(batch: Batch, cache: Any, out: Tensor) -> Tensor:
        slots = batch.slots_T
        for tensor in cache.tensors:
            flat = tensor.view(-1, *tensor.shape[2:])
            flat[slots] = flat[slots].to(torch.float8_e4m3fn).to(tensor.dtype)
        return out

    return serve(bench.with_stage(MIDDLE, Taped(bench.stages()[MIDDLE], after=after)), requests)


def _sampled(**other: Any) -> Callable[[Bench, list[Request]], list[Ran]]:
    """The last stage draws with other settings than it was asked for."""

    def run(bench: Bench, requests: list[Request]) -> list[Ran]:
        changes = [
            {key: value(getattr(one.sampling, key)) if callable(value) else value for key, value in other.items()}
            for one in requests
        ]
        asked = [replace(one, sampling=replace(one.sampling, **c)) for one, c in zip(requests, changes, strict=True)]
        return [replace(ran, request=one) for ran, one in zip(serve(bench.stages(), asked), requests, strict=True)]

    return run


def _spoofed(bench: Bench, requests: list[Request]) -> list[Ran]:
    """Every stage decodes with coarse weights; what is claimed afterwards is a prefill of the true ones."""
    path = bench.altered("int4-all", of_layers(range(6), rounded_to(4, 64)))
    cheap = serve([stage_of(path, first, last, bench.dtype) for first, last in STAGES], requests)
    found = []
    for ran in cheap:
        outputs: list[Tensor] = []
        for index, stage in enumerate(bench.stages()):
            x = inputs_of(replace(ran, outputs=outputs), index, bench.dtype)
            outputs.append(recompute(stage, x, ran.first_sampled if index == LAST else 0))
        found.append(replace(ran, outputs=outputs))
    return found


CHEATS = (
    Cheat("int8 weights", MIDDLE, _weights("int8", (2, 3), rounded_to(8)), must=False),
    Cheat("int4 weights", MIDDLE, _weights("int4", (2, 3), rounded_to(4, 64))),
    Cheat("a skipped layer", MIDDLE, _skipped),
    Cheat("one layer of another checkpoint", MIDDLE, _weights("other", (3,), shuffled)),
    Cheat("int4 after a middle layer", MIDDLE, _weights("suffix", (3,), rounded_to(4, 64))),
    Cheat("a changed prompt", 0, _changed_prompt, in_prompt=True),
    Cheat("a shorter context", MIDDLE, _shorter),
    Cheat("stale KV", MIDDLE, _stale),
    Cheat("FP8 KV", MIDDLE, _fp8, must=False),
    Cheat("greedy for sampled", LAST, _sampled(temperature=0.0)),
    Cheat("temperature 0.7 for 1", LAST, _sampled(temperature=0.7)),
    Cheat("temperature 1.1 for 1", LAST, _sampled(temperature=1.1), must=False),
    Cheat("a wrong seed", LAST, _sampled(seed=lambda seed: seed + 1)),
    Cheat("decoded with int4, proved with the true weights", LAST, _spoofed),
)
