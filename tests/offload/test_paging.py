import pytest
import torch

from muster.errors import MachineTrouble
from muster.model.load import load_stage
from muster.model.rehearsal import NUM_PAGES, PAGE_SIZE, run_stages, sequences
from muster.offload.load import load_offloaded
from muster.offload.microbatches import PieceLimits
from muster.offload.pages import TieredCache
from muster.offload.stage import DiskRoom, WeightStreamOptions
from muster.serve.options import EngineOptions
from tests.offload.llama import Written, write
from tests.offload.test_stage import CPU, request
from tests.serve.ring import Ring


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Written:
    return write(tmp_path_factory.mktemp("llama"))


def staged(model: Written, limits: PieceLimits, staging_bytes: int):
    options = WeightStreamOptions(limits=limits, staging_bytes=staging_bytes)
    return load_offloaded(model.weights, 0, 3, torch.float32, CPU, 0.5, DiskRoom(model.path, 10**9), options)[0]


def tiered(stage, model: Written, in_memory: int, num_pages: int = NUM_PAGES, most_bytes: int = 10**9) -> TieredCache:
    return TieredCache(
        stage.head_sizes, num_pages, in_memory, PAGE_SIZE, torch.float32, CPU, model.path / "cache", most_bytes
    )


class WithCache:
    """A stage whose cache lies partly on disk."""

    def __init__(self, stage, cache) -> None:
        self._stage, self._cache = stage, cache

    def new_cache(self, num_pages: int, page_size: int) -> TieredCache:
        return self._cache

    def run(self, *args):
        return self._stage.run(*args)


@pytest.mark.parametrize("limits", [PieceLimits(), PieceLimits(rows=1, tokens=3)])
@pytest.mark.parametrize("in_memory", [0, 5])
@pytest.mark.parametrize("staging_bytes", [2**16, 2**20])
def test_logits_are_the_same_wherever_pages_lie(model, limits, in_memory, staging_bytes):
    tokens = sequences(300)
    expected = run_stages([load_stage(model.weights, 0, 3, torch.float32, CPU)], tokens)
    stage = staged(model, limits, staging_bytes)
    found = run_stages([WithCache(stage, tiered(stage, model, in_memory))], tokens)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)


def test_the_engine_serves_from_pages_on_disk_with_prefix_reuse_and_preemption(model):
    plain = load_stage(model.weights, 0, 3, torch.float32, CPU)
    stage = staged(model, PieceLimits(rows=4, tokens=16), 2**17)
    options = EngineOptions(max_context=120, prefill_tokens=32)
    ours = Ring([stage], [tiered(stage, model, 6, num_pages=22)], options)
    theirs = Ring([plain], [plain.new_cache(22, PAGE_SIZE)], options)
    for ring in (ours, theirs):
        for name, length in (("a", 20), ("ab", 20), ("c", 9), ("defg", 30)):
            ring.submit(request(name, [1 + i % 7 for i in range(length)]))
        ring.run()
        assert ring.engine.stats().reused_tokens > 0
        ring.engine.check()
    assert ours.tokens == theirs.tokens


def test_a_cache_that_is_larger_than_what_is_lent_is_refused(model):
    stage = staged(model, PieceLimits(), 2**16)
    with pytest.raises(MachineTrouble, match="raise --disk"):
        tiered(stage, model, 0, most_bytes=1000)
