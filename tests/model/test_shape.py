"""The shape on paper is the memory that a stage takes."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from transformers import Gemma3TextConfig, LlamaConfig, MixtralConfig, Phi3Config

from muster.errors import UnsupportedModel
from muster.model.shape import shape_of, tensor_names
from muster.model.stage import Stage, build_stage
from muster.model.weights import open_directory
from tests.model.families import CPU, FAMILIES, LAYERS, dense_model, save


def held_bytes(stage: Stage) -> int:
    tensors = {t.data_ptr(): t for t in stage._model.state_dict().values() if not t.is_meta}
    return sum(tensor.nbytes for tensor in tensors.values())


@pytest.mark.parametrize("family", ["llama", "qwen3-moe", "gpt2", "deepseek-v3", "opt"])
def test_the_forecast_of_weights_and_pages_is_what_a_stage_holds(family: str, tmp_path: Path) -> None:
    save(dense_model(family), tmp_path)
    weights = open_directory(tmp_path)
    shape = shape_of(weights.config_json, "m", "bfloat16")
    for first, last in pairwise((0, 1, LAYERS)):
        stage = build_stage(weights, first, last, torch.bfloat16, CPU)
        assert shape.weight_bytes(first, last) == held_bytes(stage)
        assert stage.new_cache(3, 16).nbytes == 3 * 16 * shape.cache_bytes_per_token(first, last)


def test_published_sizes_are_met() -> None:
    llama_8b = LlamaConfig(
        vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_key_value_heads=8
    )
    shape = shape_of(llama_8b.to_json_string(), "llama-8b", "bfloat16")
    assert shape.weight_bytes(0, 32) == 2 * 8_030_261_248
    assert shape.cache_bytes_per_token(0, 32) == 131_072
    assert shape.flops_per_token(0, 32) == pytest.approx(2 * 7.5e9, rel=0.01)
    mixtral = shape_of(MixtralConfig(vocab_size=32000).to_json_string(), "mixtral", "bfloat16")
    assert mixtral.weight_bytes(0, 32) == 2 * 46_702_792_704
    assert mixtral.flops_per_token(0, 32) == pytest.approx(2 * 12.8e9, rel=0.02)


def test_head_sizes_that_differ_by_layer_are_counted_by_layer() -> None:
    config = Gemma3TextConfig(num_hidden_layers=2, vocab_size=100, num_key_value_heads=2, head_dim=16)
    assert shape_of(config.to_json_string(), "g", "float32").kv_bytes_per_token == (2 * 2 * 16 * 4,) * 2


def test_frequencies_that_switch_with_length_limit_the_context() -> None:
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 48,
        "long_factor": [2.0] * 48,
        "original_max_position_embeddings": 4096,
    }
    config = Phi3Config(max_position_embeddings=131072, rope_parameters=rope, original_max_position_embeddings=4096)
    assert shape_of(config.to_json_string(), "phi3", "float32").max_context == 4096


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="float8"):
        shape_of(LlamaConfig().to_json_string(), "m", "float8")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_stages_between_them_need_every_tensor_and_each_only_its_own(family: str, tmp_path: Path) -> None:
    weights = open_directory(save(dense_model(family), tmp_path))
    parts = [set(tensor_names(weights, first, last)) for first, last in pairwise(range(LAYERS + 1))]
    assert set.union(*parts) == weights.names()
    middle = parts[1]
    assert middle.isdisjoint(parts[0] | parts[2])
    assert all(".1." in name for name in middle)
