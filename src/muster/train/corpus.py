"""Token ids become the texts of a step: by seed and step alone, whatever machines there are. Pure.

Documents lie end to end. Text k is the ids [k T, (k + 1) T], of which the last one is also the next one's first: every
id but the very first is predicted once in an epoch. Each epoch has its own order.
"""

from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
from blake3 import blake3
from numpy.typing import NDArray
from torch import Tensor

from muster.errors import InvalidRequest
from muster.train.documents import Ids


class Corpus:
    def __init__(self, ids: Ids, length: int, seed: int, what: str = "The data") -> None:
        """Raises `InvalidRequest`, of `what`, if there is not enough for one text."""
        self.ids, self.length, self._seed = ids, length, seed
        self.texts = (len(ids) - 1) // length
        if self.texts < 1:
            raise InvalidRequest(
                f"{what} has {len(ids)} tokens, and one text needs {length + 1}; give more or a smaller length.",
                "length",
            )
        self._order = lru_cache(maxsize=2)(self._shuffled)

    def batch(self, step: int, sequences: int) -> Tensor:
        """Texts of step `step`, counted from 0: token ids [sequences, length + 1]."""
        return self._take([self._text_at(step * sequences + row) for row in range(sequences)])

    def all_texts(self, most: int) -> Tensor:
        """The first so many texts, in the order in which they stand."""
        return self._take(list(range(min(most, self.texts))))

    def _text_at(self, index: int) -> int:
        epoch, place = divmod(index, self.texts)
        return int(self._order(epoch)[place])

    def _shuffled(self, epoch: int) -> NDArray[np.int64]:
        return np.random.Generator(np.random.PCG64([self._seed, epoch])).permutation(self.texts)

    def _take(self, texts: list[int]) -> Tensor:
        starts = np.array(texts)[:, None] * self.length
        return torch.from_numpy(self.ids[starts + np.arange(self.length + 1)].astype(np.int64))


def deal(texts: Tensor, microbatch: int, pipelines: int) -> list[list[Tensor]]:
    """To each pipeline its microbatches, as even as they can be, in the order of the texts."""
    parts = list(torch.split(texts, microbatch))
    bounds = [len(parts) * pipeline // pipelines for pipeline in range(pipelines + 1)]
    return [parts[start:stop] for start, stop in pairwise(bounds)]


def numbers_of(texts: Tensor) -> tuple[int, ...]:
    """A number of 64 bits for each of the token ids [B, T + 1]: the same for the same text, wherever it is cut."""
    return tuple(int.from_bytes(blake3(row.tobytes()).digest(length=8), "little") for row in texts.cpu().numpy())
