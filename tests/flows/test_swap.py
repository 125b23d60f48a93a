"""A pool whose machines lend host memory swaps cache through it, says so, and gives the answers of the model."""

from pathlib import Path

import pytest
from transformers import PreTrainedModel

from benchmarks.exactness import NEAR_TIE, judge
from benchmarks.workload import mixed_requests
from muster.node.runners.serve.first import FirstStage
from muster.node.runners.serve.later import LaterStage
from muster.serve.swapping import SwappingCache
from tests.flows.live_pool import LivePool, Machine

HOST_BYTES = 64 * 2**20


def caches(machine: Machine) -> list[SwappingCache]:
    found = []
    for held in machine.worker._stages._held.values():
        runner = held.runner
        of = runner._engine if isinstance(runner, FirstStage) else runner._follower
        assert isinstance(runner, FirstStage | LaterStage)
        assert isinstance(of._cache, SwappingCache)
        found.append(of._cache)
    return found


@pytest.mark.chaos  # `tests/serve/test_swapping` has the bits; this, that a pool does it
def test_more_requests_run_at_once_than_the_devices_hold_and_answers_stay_the_same(
    pool: LivePool, model_path: Path, dense: PreTrainedModel, tmp_path: Path
) -> None:
    requests = mixed_requests(16, 140, 220, 8, dense.config.vocab_size)
    expected = pool.ask(requests)
    with LivePool(tmp_path, str(model_path), max_layers=2, host_memory_bytes=HOST_BYTES) as swapping:
        work = swapping.until_serving(stages=4).pipeline.serve
        assert {node["host_memory_bytes"] for node in swapping.status()["nodes"]} == {HOST_BYTES}
        needed = sum(-(-len(request.prompt) // work.page_size) for request in requests)
        assert work.num_pages < needed < work.all_pages, "the devices could hold all, or nobody can"
        tokens = swapping.ask(requests)
        swapping.until_idle()
        moved = [cache.swap.stats.in_pages for machine in swapping.machines for cache in caches(machine)]
        assert min(moved) > 0
    differing = [request for request in requests if tokens[request.id] != expected[request.id]]
    assert all(judge(dense, request, tokens[request.id])[2] <= NEAR_TIE for request in differing)
    assert len(differing) <= 1
