"""Sizes read off a bare config.json, against the modules themselves."""

import json
from dataclasses import replace

import pytest

from muster.cost.from_config import shape_from_config
from muster.cost.named_shapes import named_shape, printed_parameters, shape_names
from muster.errors import UnknownModel, UnsupportedModel, WeightsInvalid
from muster.model.shape import shape_of
from tests.model.families import FAMILIES


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_size_is_what_the_modules_say(family: str, dtype: str) -> None:
    config = FAMILIES[family]().to_json_string()
    read, counted = shape_from_config(config, "m", dtype), shape_of(config, "m", dtype)
    if family == "gpt-oss":
        # The modules' count takes the stacked biases of the experts for matrices; they add, they do not multiply.
        assert read.layer_flops_per_token == pytest.approx(counted.layer_flops_per_token, rel=0.05)
        read = replace(read, layer_flops_per_token=counted.layer_flops_per_token)
    # Only the configuration says what training keeps.
    assert replace(read, saved_bytes_per_token=()) == counted


SPARSE = {"model_type": "gemma3_text", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 7}
OLD_LLAMA = {
    "model_type": "llama",
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}


GLM = {
    "model_type": "glm4_moe",
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 40,
    "moe_intermediate_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "attention_bias": True,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
}


@pytest.mark.parametrize(
    "entries",
    [
        pytest.param(SPARSE | {"sliding_window": 32}, id="defaults of the family, a pattern of windows"),
        pytest.param({"model_type": "gemma3", "text_config": SPARSE}, id="the decoder of a model that also sees"),
        pytest.param(OLD_LLAMA, id="no heads of keys and values"),
        *(
            pytest.param(GLM | {"use_qk_norm": normed}, id=f"GLM's experts, norms: {normed}")
            for normed in (True, False)
        ),
        pytest.param(
            OLD_LLAMA
            | {"model_type": "qwen2", "num_key_value_heads": 2, "use_sliding_window": False, "sliding_window": 8},
            id="window off",
        ),
        pytest.param(
            OLD_LLAMA | {"model_type": "gemma2", "head_dim": 4, "sliding_window": 8}, id="every second layer slides"
        ),
        pytest.param(
            OLD_LLAMA
            | {"model_type": "phi3", "sliding_window": 8, "original_max_position_embeddings": 64, "pad_token_id": 0}
            | {"rope_scaling": {"type": "longrope", "short_factor": [1.0] * 2, "long_factor": [2.0] * 2}},
            id="long rotary scaling",
        ),
    ],
)
def test_configurations_as_they_are_published_are_read_like_transformers_reads_them(entries: dict[str, object]) -> None:
    text = json.dumps(entries)
    assert replace(shape_from_config(text, "m", "float32"), saved_bytes_per_token=()) == shape_of(text, "m", "float32")


def test_rotary_scaling_that_changes_with_length_ends_where_the_training_did() -> None:
    scaled = {
        "max_position_embeddings": 512,
        "rope_scaling": {"type": "dynamic", "original_max_position_embeddings": 96},
    }
    assert shape_from_config(json.dumps(OLD_LLAMA | scaled), "m").max_context == 96
    plain = {"max_position_embeddings": 512, "rope_scaling": {"rope_type": "linear", "factor": 4.0}}
    assert shape_from_config(json.dumps(OLD_LLAMA | plain), "m").max_context == 512


@pytest.mark.parametrize("name", shape_names())
def test_named_shapes_have_the_printed_number_of_parameters(name: str) -> None:
    shape = named_shape(name, "float32")
    parameters = shape.weight_bytes(0, shape.num_layers) / 4
    assert parameters == pytest.approx(printed_parameters(name), rel=0.025)
    assert len(shape.layer_bytes) == len(shape.windows) == len(shape.saved_bytes_per_token) == shape.num_layers


def test_named_shapes_know_their_caches_and_experts() -> None:
    assert {"gpt3-xl", "llama-2-70b", "llama-3-70b", "opt-30b", "opt-175b", "bert-large"} <= set(shape_names())
    llama = named_shape("llama-3-70b")
    assert llama.cache_bytes_per_token(0, 80) == 80 * 2 * 8 * 128 * 2
    assert llama.dtype == "bfloat16"
    assert named_shape("opt-175b").dtype == "float16"
    assert named_shape("bert-large").cache_bytes_per_token(0, 24) == 0
    assert set(named_shape("mistral-7b").windows) == {4096}
    mixtral = named_shape("mixtral-8x7b")
    assert (mixtral.num_experts, mixtral.experts_per_token) == (8, 2)
    assert mixtral.flops_per_token(0, 32) == pytest.approx(2 * 12.8e9, rel=0.01), (
        "12.9 billion work, less the embedding"
    )
    assert named_shape("deepseek-v3").flops_per_token(0, 61) == pytest.approx(2 * 37e9, rel=0.03)


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("[]", WeightsInvalid, "not a JSON object with a model_type"),
        ("[" * 100_000, WeightsInvalid, "not a JSON object with a model_type"),
        ('{"model_type": "llama"}', WeightsInvalid, "lacks 'num_hidden_layers'"),
        (json.dumps(OLD_LLAMA | {"hidden_size": -4}), WeightsInvalid, "hidden_size = -4, not a positive integer"),
        (json.dumps(OLD_LLAMA | {"hidden_size": "16"}), WeightsInvalid, "hidden_size = 16, not a positive integer"),
        (
            json.dumps(OLD_LLAMA | {"sliding_window": "a"} | {"model_type": "mistral"}),
            WeightsInvalid,
            "sliding_window = a",
        ),
        (json.dumps(OLD_LLAMA | {"num_hidden_layers": 10**9}), UnsupportedModel, "beyond the 10000"),
        ('{"model_type": "rwkv"}', UnsupportedModel, r"'rwkv' model cannot be read.*known are bert"),
    ],
)
def test_a_bad_configuration_is_refused_by_name(text: str, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        shape_from_config(text, "m")


def test_an_unknown_name_or_dtype_is_refused() -> None:
    with pytest.raises(UnknownModel, match="did you mean llama-3-70b"):
        named_shape("lama-3-70b")
    with pytest.raises(UnsupportedModel, match="float8"):
        named_shape("gpt2", "float8")
