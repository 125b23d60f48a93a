"""A stage that nobody uses stays in memory as long as that costs nothing, and really goes when it must."""

import gc
import weakref

import pytest
import torch
from transformers import LlamaConfig

from muster.model.conformance import MemoryWeights, random_model
from muster.model.shape import shape_of
from muster.model.stage import Stage, build_stage
from muster.node.stage_cache import KEEP_S, StageCache, StageKey
from muster.spec.model_shape import ModelShape

Made = tuple[Stage, ModelShape]


@pytest.fixture(scope="module")
def weights() -> MemoryWeights:
    config = LlamaConfig(hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, vocab_size=8)
    return MemoryWeights(config.to_json_string(use_diff=False), random_model(config).state_dict())


def make(weights: MemoryWeights, first: int, last: int) -> Made:
    stage = build_stage(weights, first, last, torch.float32, torch.device("cpu"))
    return stage, shape_of(weights.config_json, "small", "float32")


def key(first: int, last: int, manifest: str = "aa") -> StageKey:
    return StageKey(manifest, first, last, "float32")


def test_only_the_very_same_stage_is_taken_again(weights: MemoryWeights) -> None:
    cache = StageCache()
    cache.put(key(0, 1), *make(weights, 0, 1), now_s=0.0)
    assert cache.take(key(0, 2)) is None
    assert cache.take(key(0, 1, manifest="bb")) is None
    taken = cache.take(key(0, 1))
    assert taken is not None
    assert cache.take(key(0, 1)) is taken


def test_a_stage_in_use_stays_whatever_is_needed_and_however_long_it_takes(weights: MemoryWeights) -> None:
    cache = StageCache()
    cache.put(key(0, 1), *make(weights, 0, 1), now_s=0.0)
    assert cache.take(key(0, 1))
    assert cache.take(key(0, 1))
    cache.give_back(key(0, 1), 1.0)
    cache.make_room(0)
    cache.tidy(10 * KEEP_S)
    assert cache.idle_bytes == 0
    assert cache.take(key(0, 1))


def test_the_longest_idle_goes_first_and_no_more_than_must(weights: MemoryWeights) -> None:
    cache = StageCache()
    for number, (first, last) in enumerate([(0, 1), (1, 2)]):
        cache.put(key(first, last), *make(weights, first, last), now_s=float(number))
    both = cache.idle_bytes
    cache.make_room(both)
    assert cache.idle_bytes == both
    cache.make_room(both - 1)
    assert cache.take(key(0, 1)) is None
    assert cache.take(key(1, 2)) is not None


def test_what_is_idle_for_long_is_let_go_and_its_memory_is_free_at_once(weights: MemoryWeights) -> None:
    cache = StageCache()
    stage, shape = make(weights, 0, 2)
    gone = weakref.ref(stage)
    cache.put(key(0, 2), stage, shape, now_s=0.0)
    del stage
    assert cache.idle_bytes == shape.weight_bytes(0, 2)
    cache.tidy(KEEP_S - 1)
    assert cache.idle_bytes > 0
    gc.disable()
    try:
        cache.tidy(KEEP_S + 1)
        assert cache.idle_bytes == 0
        assert gone() is None
    finally:
        gc.enable()
