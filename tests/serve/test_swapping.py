"""A ring of real layers whose pages move to host memory gives the same tokens and log probabilities as one without."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.exactness import load
from benchmarks.workload import llama, mixed_requests, save
from muster.serve.local_ring import LocalRing
from muster.serve.options import EngineOptions
from muster.serve.swapping import SwappingCache, cache_of
from muster.spec.plan import ServeSettings
from muster.wire.messages.generate import Row

LAYERS, VOCABULARY, PAGE_SIZE = 3, 64, 4


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(llama(64, LAYERS, VOCABULARY), tmp_path_factory.mktemp("model"))


def answers(ring: LocalRing, requests) -> dict[str, list]:
    found: dict[str, list] = {request.id: [] for request in requests}
    for request in requests:
        ring.engine.submit(request)
    while ring.busy:
        for progress in ring.work():
            found[progress.request_id] += [(one.token, one.logprob) for one in progress.tokens]
        ring.engine.check()
    return found


def test_answers_with_swap_are_those_without_to_the_bit(path):
    work = ServeSettings(40, PAGE_SIZE, 6, swap_pages=12)
    wanted = mixed_requests(24, 3, 40, 16, VOCABULARY)
    requests = [replace(one, sampling=replace(one.sampling, logprobs=2)) for one in wanted]
    options = EngineOptions(max_context=80, num_microbatches=6, prefill_tokens=48)
    stages = load(path, LAYERS, 3)
    unlimited = [stage.new_cache(work.all_pages, PAGE_SIZE) for stage in stages]
    for cache in unlimited:
        cache.step_pages = work.num_pages  # the same steps: sums over other batches differ in their last bits
    plain = LocalRing(stages, unlimited, options)
    caches = [cache_of(stage, work) for stage in stages]
    swapping = LocalRing(stages, caches, options)
    expected = answers(plain, requests)
    assert answers(swapping, requests) == expected
    for cache in caches:
        assert isinstance(cache, SwappingCache)
        cache.swap.residency.check()
        assert cache.swap.stats.in_pages > 100, "hardly anything was swapped"
        assert cache.nbytes == 40 * PAGE_SIZE * 2 * 4 * cache.tensors[0].shape[2] * cache.tensors[0].shape[3]


def test_what_a_step_to_come_says_of_pages_that_do_not_exist_is_not_listened_to(path):
    cache = cache_of(load(path, LAYERS, 1)[0], ServeSettings(40, PAGE_SIZE, 6, swap_pages=12))
    assert isinstance(cache, SwappingCache)
    for page in (-1, cache.num_pages, 2**63, 2**80):
        for rows, copies in (([Row(0, 0, 1, (0, page), 1)], []), ([Row(0, 0, 1, (0,), 1)], [(0, page)])):
            cache.expect(rows, copies)
            cache.enter([Row(0, 0, 1, (1,), 1)], [])
            cache.swap.residency.check()
