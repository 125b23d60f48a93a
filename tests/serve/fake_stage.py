"""A stage without a network: every layer's "attention" is a hash of the tokens it finds in the row's pages.

A page that was overwritten, mixed up, freed too early or never copied changes the hash and hence the logits; a token
found at the wrong position is reported at once. Hidden states carry (token, hash so far) in float64.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from muster.model.batch import Batch
from muster.model.cache import Places
from muster.model.host_pages import Ints
from muster.serve.swap import Residency, StepPages
from muster.serve.swapping import Swap
from muster.wire.messages.generate import Row

VOCABULARY = 37
_MODULUS = 1_000_003


class FakeCache:
    def __init__(self, num_pages: int, page_size: int) -> None:
        self.num_pages = num_pages
        self.page_size = page_size
        self.step_pages = num_pages
        self.tokens = np.full(num_pages * page_size, -1)
        self.positions = np.full(num_pages * page_size, -1)

    def enter(self, rows: Sequence[Row], copies: Sequence[tuple[int, int]]) -> Places | None:
        self.copy_pages(copies)
        return None

    def expect(self, rows: Sequence[Row], copies: Sequence[tuple[int, int]]) -> None:
        return None

    def copy_pages(self, pairs: Sequence[tuple[int, int]]) -> None:
        for content in (self.tokens, self.positions):
            pages = content.reshape(-1, self.page_size)  # frames, where there are fewer
            before = pages.copy()
            for source, target in pairs:
                pages[target] = before[source]


class FakeHost:
    """Host memory for the pages of a `FakeCache`. A frame whose page has gone is spoilt."""

    def __init__(self, frames: "FakeCache", num_pages: int) -> None:
        self.parts = [(frames.tokens, np.full((num_pages, frames.page_size), -5))]
        self.parts.append((frames.positions, np.full((num_pages, frames.page_size), -5)))

    def computed(self) -> None:
        return None

    def move(self, after: None, out: tuple[Ints, Ints], into: tuple[Ints, Ints]) -> None:
        for content, host in self.parts:
            frames = content.reshape(-1, host.shape[1])
            host[out[0]] = frames[out[1]]
            frames[out[1]] = -7
            frames[into[1]] = host[into[0]]

    def await_move(self, mark: None) -> None:
        return None


class FakeSwappingCache(FakeCache):
    """The same books and the same thread as `SwappingCache`."""

    def __init__(self, num_pages: int, num_frames: int, page_size: int) -> None:
        super().__init__(num_frames, page_size)
        self.num_pages = num_pages
        self.swap = Swap(Residency(num_pages, num_frames, 2), FakeHost(self, num_pages))

    def enter(self, rows: Sequence[Row], copies: Sequence[tuple[int, int]]) -> Places:
        step = StepPages.of(rows, copies, self.page_size)
        places = self.swap.enter(step)
        self.swap.residency.check()
        assert (places[step.named] >= 0).all(), "a step runs without its pages"
        self.copy_pages([(int(places[source]), int(places[target])) for source, target in copies])
        self.swap.foresee()
        self.swap.residency.check()
        return places.copy()

    def expect(self, rows: Sequence[Row], copies: Sequence[tuple[int, int]]) -> None:
        self.swap.expect(StepPages.of(rows, copies, self.page_size))


class FakeStage:
    """Layers [index, index + 1) of `count`."""

    hidden_size = 2
    vocab_size = VOCABULARY
    dtype = torch.float64
    device = torch.device("cpu")

    def __init__(self, index: int = 0, count: int = 1) -> None:
        self.index = index
        self.is_first = index == 0
        self.is_last = index == count - 1
        self.batches: list[Batch] = []

    def run(self, batch: Batch, cache: FakeCache, x: Tensor, look: Callable[[Tensor], None]) -> Tensor:
        self.batches.append(batch)
        tokens_T, hashes_T = self._unpack(x)
        slots_T, positions_T = batch.slots_T.numpy(), batch.positions_T.numpy()
        assert len(set(slots_T.tolist())) == len(slots_T), "two tokens are written to one slot"
        cache.tokens[slots_T], cache.positions[slots_T] = tokens_T, positions_T
        ends = np.cumsum(batch.query_lengths)
        for row, (end, length) in enumerate(zip(ends, batch.query_lengths, strict=True)):
            pages = batch.page_tables_RP[row].numpy().astype(np.int64)
            places = (pages[:, None] * cache.page_size + np.arange(cache.page_size)).reshape(-1)
            context = batch.context_lengths[row]
            assert (cache.positions[places[:context]] == np.arange(context)).all(), "a page holds other positions"
            for token in range(end - length, end):
                seen = places[: positions_T[token] + 1]
                hashes_T[token] = (hashes_T[token] + context_hash(cache.tokens[seen], self.index)) % _MODULUS
        if not self.is_last:
            return torch.from_numpy(np.stack([tokens_T, hashes_T], axis=1).astype(np.float64))
        for token in [] if batch.scored_rows_C is None else batch.scored_rows_C.tolist():
            look(logits_of(int(hashes_T[token]))[None])
        return torch.stack([logits_of(int(hashes_T[token])) for token in batch.logits_rows_S.tolist()] or [EMPTY])

    def _unpack(self, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
        if self.is_first:
            return x.numpy(), np.zeros(len(x), dtype=np.int64)
        return x[:, 0].numpy().astype(np.int64), x[:, 1].numpy().astype(np.int64)


EMPTY = torch.zeros(VOCABULARY)


def context_hash(tokens: np.ndarray, layer: int) -> int:
    weights = (np.arange(1, len(tokens) + 1) * (2 * layer + 3)) % 9973
    return int(((tokens + 1) * weights * weights % _MODULUS).sum() % _MODULUS)


def logits_of(number: int) -> Tensor:
    values = (np.arange(1, VOCABULARY + 1) * (number + 7919) * 2654435761 % 4294967291) / 4294967291
    return torch.from_numpy((values * 8 - 4).astype(np.float32))


def expected_logits(tokens: Sequence[int], num_stages: int) -> Tensor:
    """The logits after `tokens` of the whole fake model."""
    array = np.array(tokens, dtype=np.int64)
    return logits_of(sum(context_hash(array, layer) for layer in range(num_stages)) % _MODULUS)
