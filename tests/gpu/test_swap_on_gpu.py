"""On a GPU pages go to page-locked memory and come back bit for bit. Skipped, and said so, where there is no GPU."""

import numpy as np
import pytest
import torch

from muster.model.cache import HeadSizes, KVCache
from muster.model.host_pages import HostPages
from muster.serve.swap import Residency, StepPages
from muster.serve.swapping import Swap

if not torch.cuda.is_available():
    pytest.skip("NOT TESTED: no CUDA device here, so swapping over its bus remains unchecked", allow_module_level=True)

GPU = torch.device("cuda")
PAGES, FRAMES, MICROBATCHES, ROUNDS = 96, 40, 12, 20


def test_pages_keep_their_content_while_others_are_computed_on() -> None:
    """Every step adds to what it finds in its pages; a copy too early, too late or to the wrong place shows."""
    cache = KVCache([HeadSizes(4, 64, 64)] * 6, FRAMES, 16, torch.float16, GPU)
    host = HostPages(cache, PAGES)
    host._chunk = 3
    swap = Swap(Residency(PAGES, FRAMES, MICROBATCHES), host)
    expected = torch.zeros(PAGES)
    groups = np.array_split(np.random.default_rng(0).permutation(PAGES), MICROBATCHES)
    for turn in range(ROUNDS * MICROBATCHES):
        pages = np.sort(groups[turn % MICROBATCHES]).astype(np.int64)
        written = pages if turn < MICROBATCHES else pages[turn % len(pages) :]
        fresh = pages if turn < MICROBATCHES else pages[:0]
        places = swap.enter(StepPages(pages, fresh, written))[pages].copy()
        swap.foresee()
        frames = torch.from_numpy(places).to(GPU)
        changed = torch.from_numpy(np.isin(pages, written))
        for tensor in cache.tensors:
            if turn < MICROBATCHES:
                tensor[frames] = torch.from_numpy(pages).to(GPU, tensor.dtype).view(-1, 1, 1, 1)
            else:
                tensor[frames[changed.to(GPU)]] += 1
        expected[pages] = torch.where(changed, expected[pages] + 1, expected[pages])
        found = cache.tensors[turn % len(cache.tensors)][frames].float().cpu()
        wanted = (torch.from_numpy(pages) + expected[pages] - 1).view(-1, 1, 1, 1)
        assert torch.equal(found, wanted.expand_as(found))
    assert swap.stats.in_pages > PAGES


def test_the_host_s_memory_is_page_locked() -> None:
    host = HostPages(KVCache([HeadSizes(1, 64, 64)], 4, 16, torch.float16, GPU), 8)
    assert host._pages_NE.is_pinned()
