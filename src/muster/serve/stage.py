"""What the engine needs of a stage and of its cache. `muster.model` has the real ones, the tests a small fake."""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from muster.model.batch import Batch
from muster.model.cache import Places
from muster.wire.messages.generate import Row


class PagedCache(Protocol):
    """Keys and values of a stage's layers, in pages. Page k means the same tokens on every stage of a ring."""

    @property
    def num_pages(self) -> int: ...

    @property
    def page_size(self) -> int: ...

    @property
    def step_pages(self) -> int:
        """Most different pages that one step may name."""

    def enter(self, rows: Sequence[Row], copies: Sequence[tuple[int, int]]) -> Places | None:
        """Before a step runs: copy whole pages (from, to), where sources and targets are disjoint.

        Returns the place of each page in what the layers read; None where page k lies at place k.
        """

    def expect(self, rows: Sequence[Row], copies: Sequence[tuple[int, int]]) -> None:
        """These belong to the step that enters after the next one. Nobody has checked them yet."""


CacheT = TypeVar("CacheT", bound=PagedCache, contravariant=True)


class RunsLayers(Protocol[CacheT]):
    """Layers [first, last) of a model.

    `run` takes token ids int64 [T] on the first stage and hidden [T, H] on later ones; it returns hidden [T, H], or
    float32 logits [S, V] on the last, after it has shown those of the batch's scored tokens to `look`, piece by piece.
    """

    @property
    def is_first(self) -> bool: ...

    @property
    def is_last(self) -> bool: ...

    @property
    def hidden_size(self) -> int: ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def device(self) -> torch.device: ...

    def run(self, batch: Batch, cache: CacheT, x: Tensor, look: Callable[[Tensor], None]) -> Tensor: ...
