"""The reference backend over KV pages in few bits. Knows nothing of what the bytes of a page mean; `pages` does."""

import torch
from torch import Tensor

from muster.model.attention import SdpaBackend
from muster.model.quantized.pages import from_bytes, to_bytes


class FewBitsBackend(SdpaBackend):
    """Keys and values are made codes where they are stored, and plain again where they are gathered.

    What is new in a step and needs nothing of before (a prompt's first chunk) attends to it as it was computed.
    """

    def __init__(self, kept: str) -> None:
        super().__init__()
        self._kept = kept

    def _store(self, keys: Tensor, values: Tensor, slots_T: Tensor, k_TKD: Tensor, v_TKD: Tensor) -> None:
        for pages, x_TKD in ((keys, k_TKD), (values, v_TKD)):
            pages.flatten(0, 1).index_copy_(0, slots_T, to_bytes(x_TKD, self._kept))

    def _gather(self, name: str, cache: Tensor, pages: Tensor, size: int, dtype: torch.dtype) -> Tensor:
        return from_bytes(super()._gather(name, cache, pages, size, dtype), size, self._kept, dtype)
