"""Models are built and run in several threads of one process, and none notices the others."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import torch
from transformers import LlamaConfig

from muster.model.architecture import build_on_meta
from muster.model.settings import building, running


def test_nobody_builds_while_a_model_runs_and_nobody_runs_while_one_is_built() -> None:
    inside: list[str] = []
    clashes: list[list[str]] = []

    def visit(kind: str) -> None:
        for _ in range(40):
            with building() if kind == "build" else running():
                inside.append(kind)
                if "build" in inside and len(inside) > 1:
                    clashes.append(list(inside))
                time.sleep(0.0005)
                inside.remove(kind)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(visit, ["build", "run", "run", "build"]))
    assert clashes == []


def test_several_models_run_at_once_even_while_somebody_waits_to_build() -> None:
    meet = threading.Barrier(2, timeout=10)

    def run() -> None:
        with running():
            meet.wait()
            with running():  # nested: must not wait for the builder that waits for us
                pass
            meet.wait()

    with ThreadPoolExecutor(3) as threads:
        runs = [threads.submit(run) for _ in range(2)]
        built = threads.submit(lambda: build_on_meta(small_config(), torch.bfloat16))
        for done in (*runs, built):
            done.result(10)


def test_models_built_at_once_each_get_their_own_dtype_and_leave_the_default_alone() -> None:
    def build(dtype: torch.dtype) -> bool:
        return all(parameter.dtype == dtype for parameter in build_on_meta(small_config(), dtype).parameters())

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(build, [torch.float32, torch.bfloat16, torch.float16, torch.float32] * 5))
    assert torch.get_default_dtype() == torch.float32


def small_config() -> LlamaConfig:
    return LlamaConfig(hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, vocab_size=32)
