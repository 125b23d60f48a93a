"""The engine on real stages against `transformers` itself. `benchmarks/exactness.py` runs the same at full scale."""

from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from benchmarks.exactness import check_greedy, check_seeded, load, seeded_runs, serve
from benchmarks.workload import llama, mixed_requests, save

LAYERS, VOCABULARY = 4, 512


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return llama(128, LAYERS, VOCABULARY)


@pytest.fixture(scope="module")
def path(model: LlamaForCausalLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(model, tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_greedy_tokens_are_those_of_transformers_for_every_split(model, path):
    requests = mixed_requests(10, 3, 90, 24, VOCABULARY)
    served = {f"{count} stages": serve(load(path, LAYERS, count), requests) for count in (1, 2, 3, 4)}
    served["4 stages, few pages"] = serve(load(path, LAYERS, 4), requests, num_pages=14)
    report = check_greedy(model, requests, served)
    for split in report["splits"].values():
        assert split["wrong_requests"] == 0
        assert split["identical_requests"] >= 9


def test_seeded_tokens_do_not_depend_on_company_split_memory_or_interruption(path):
    report = check_seeded(seeded_runs(path, LAYERS, 3, mixed_requests(8, 3, 60, 20, VOCABULARY)))
    assert set(report["identical_requests"].values()) == {8}
