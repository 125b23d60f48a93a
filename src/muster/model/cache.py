"""The KV pages of one stage. Knows nothing of which request owns which page; the ring's head alone decides that.

Page k of every held layer stores the same `page_size` tokens, so one page table serves all layers and all stages.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from muster.cost.few_bits import vector_bytes
from muster.errors import MachineTrouble
from muster.wire.messages.generate import Row

Places = npt.NDArray[np.int64]
"""For each page where it lies among the places of the cache, -1 for nowhere."""


@dataclass(frozen=True, slots=True)
class HeadSizes:
    """What one layer hands to the attention function: key/value heads and the size of each (they may differ)."""

    num_heads: int
    key_size: int
    value_size: int

    @property
    def values_per_token(self) -> int:
        return self.num_heads * (self.key_size + self.value_size)


def cache_bytes(sizes: HeadSizes, itemsize: int, kept: str) -> int:
    """Of one token in one layer."""
    return sizes.num_heads * sum(vector_bytes(size, itemsize, kept) for size in (sizes.key_size, sizes.value_size))


def width(size: int, kept: str) -> int:
    """Elements that one key or value of a head takes in a page: its numbers, or bytes where they are codes."""
    return vector_bytes(size, 1, kept)


class KVCache:
    """Keys and values of each held layer, `[num_pages, page_size, K, D]`, allocated once.

    Zeros, not what is found there: attention multiplies the masked tail of a page by zero, and zero times the NaN of
    uninitialised memory is NaN. On a CPU they are the system's own, which take memory from their first use on.
    """

    def __init__(
        self,
        layers: Sequence[HeadSizes],
        num_pages: int,
        page_size: int,
        dtype: torch.dtype,
        device: torch.device,
        kept: str = "",
    ) -> None:
        """With a format `kept` (`few_bits.CACHE_FORMATS`) pages are bytes [num_pages, page_size, K, bytes of a vector].

        See `quantized/pages` for what is in them. `dtype` is what keys and values come and go in.
        """
        self.num_pages = num_pages
        self.page_size = page_size
        self.step_pages = num_pages
        """Most different pages that one step may name."""
        self.dtype, self.device, self.kept = dtype, device, kept
        stored = torch.uint8 if kept else dtype
        self.largest_token_bytes = max((sizes.values_per_token for sizes in layers), default=0) * dtype.itemsize
        """Of one token in one layer."""
        try:
            self._keys = [
                zeros((num_pages, page_size, sizes.num_heads, width(sizes.key_size, kept)), stored, device)
                for sizes in layers
            ]
            self._values = [
                zeros((num_pages, page_size, sizes.num_heads, width(sizes.value_size, kept)), stored, device)
                for sizes in layers
            ]
        except (RuntimeError, MemoryError) as error:
            raise MachineTrouble(
                f"{num_pages} KV pages of {page_size} tokens do not fit in the memory of {device}; "
                "offer more memory, or ask for a smaller context or fewer requests at once."
            ) from error

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Keys and values of all layers, each with the pages first."""
        return (*self._keys, *self._values)

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the `index`-th layer that this stage holds."""
        return self._keys[index], self._values[index]

    def enter(self, rows: Sequence[Row], copies: Sequence[tuple[int, int]]) -> Places | None:
        """Before a step runs: make its copies, and say where each page lies; None where page k lies at place k."""
        self.copy_pages(copies)
        return None

    def expect(self, rows: Sequence[Row], copies: Sequence[tuple[int, int]]) -> None:
        """Of the step after the next one. All pages are here already."""

    def copy_pages(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy page `from` to page `to` for each pair, in every layer (copy-on-write)."""
        if not pairs:
            return
        source, target = (torch.tensor(pages, device=self._keys[0].device) for pages in zip(*pairs, strict=True))
        for tensor in self.tensors:
            tensor.index_copy_(0, target, tensor.index_select(0, source))


def zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """As `torch.zeros`, which writes every zero; a CPU's memory that nobody has written yet is not taken."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.from_numpy(np.zeros(math.prod(shape) * dtype.itemsize, np.uint8)).view(dtype).view(shape)
