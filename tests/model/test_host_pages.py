"""Pages that leave a stage's frames and come back, to the bit."""

import numpy as np
import pytest
import torch

from muster.errors import MachineTrouble
from muster.model.cache import HeadSizes, KVCache
from muster.model.host_pages import HostPages

LAYERS = [HeadSizes(2, 4, 4), HeadSizes(1, 8, 2), HeadSizes(3, 2, 2)]


def frames(dtype: torch.dtype = torch.float32) -> KVCache:
    cache = KVCache(LAYERS, 6, 4, dtype, torch.device("cpu"))
    generator = torch.Generator().manual_seed(1)
    for tensor in cache.tensors:
        tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return cache


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_pages_come_back_bit_for_bit_into_any_frame(dtype, chunk):
    cache = frames(dtype)
    host = HostPages(cache, 9)
    host._chunk = chunk
    before = [tensor.clone() for tensor in cache.tensors]
    pages, there = np.array([8, 0, 5]), np.array([1, 4, 2])
    none = np.empty(0, dtype=np.int64)
    host.move(None, (pages, there), (none, none))
    for tensor in cache.tensors:
        tensor[[1, 4, 2]] = torch.nan
    host.move(None, (none, none), (pages, np.array([5, 2, 1])))
    for tensor, old in zip(cache.tensors, before, strict=True):
        assert torch.equal(tensor[[5, 2, 1]], old[[1, 4, 2]])
        assert torch.equal(tensor[[0, 3]], old[[0, 3]]), "others are left alone"


def test_a_page_may_take_the_frame_that_another_leaves_in_the_same_move():
    cache = frames()
    host = HostPages(cache, 3)
    first, second = (cache.tensors[0][index].clone() for index in (0, 1))
    none = np.empty(0, dtype=np.int64)
    host.move(None, (np.array([2]), np.array([1])), (none, none))
    host.move(None, (np.array([0]), np.array([0])), (np.array([2]), np.array([0])))
    assert torch.equal(cache.tensors[0][0], second)
    host.move(None, (none, none), (np.array([0]), np.array([3])))
    assert torch.equal(cache.tensors[0][3], first)


def test_host_memory_that_is_not_there_is_named():
    with pytest.raises(MachineTrouble, match="--host-memory"):
        HostPages(frames(), 2**50)
