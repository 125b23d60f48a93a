"""What a configuration says of a model, or leaves out, means the same to whoever plans it and whoever serves it."""

import json

import pytest
from transformers import AutoConfig

from muster.cost.families import FAMILIES
from muster.cost.from_config import shape_from_config
from muster.cost.limits import packing_of, unpacked
from muster.errors import UnsupportedModel, WeightsInvalid
from muster.model.architecture import parse_config
from muster.model.conformance import check_conformance
from muster.model.shape import max_context, shape_of

SIZES = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 4,
    "num_experts": 4,
    "moe_intermediate_size": 24,
    "pad_token_id": 0,
}
LIMITS = ("max_position_embeddings", "n_positions")


def planned(entries: dict[str, object]) -> int:
    return shape_from_config(json.dumps(entries), "m", "float32").max_context


def served(entries: dict[str, object]) -> int:
    return max_context(parse_config(json.dumps(entries)))


def whole(family: str) -> dict[str, object]:
    """All that its configuration says by default, but for the limit."""
    entries = {**AutoConfig.for_model(family).to_dict(), **SIZES}
    return {key: value for key, value in entries.items() if key not in (*LIMITS, "layer_types")}


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"bert", "deepseek_v2", "deepseek_v3"}))
def test_a_context_limit_that_is_not_named_is_the_familys_own_for_everybody(family: str) -> None:
    bare = {"model_type": family, **SIZES}
    limit = served(bare)
    assert planned(bare) == limit == planned(whole(family))
    name = "n_positions" if family == "gpt2" else "max_position_embeddings"
    assert planned(bare | {name: 48}) == served(bare | {name: 48}) == 48


ROPE = {
    "nothing": {},
    "null": {"rope_scaling": None},
    "linear": {"rope_scaling": {"type": "linear", "factor": 4.0}},
    "dynamic": {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
    "dynamic, from a length": {
        "rope_scaling": {"rope_type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 64}
    },
    "yarn": {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}},
    "llama3": {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 1e4,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        }
    },
    "longrope": {
        "rope_scaling": {
            "rope_type": "longrope",
            "short_factor": [1.0] * 4,
            "long_factor": [2.0] * 4,
            "original_max_position_embeddings": 64,
        }
    },
}


@pytest.mark.parametrize("rope", list(ROPE))
@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral"])
def test_every_rotary_scaling_that_the_family_takes_is_served_up_to_one_length(family: str, rope: str) -> None:
    entries = {"model_type": family, **SIZES, "max_position_embeddings": 256, **ROPE[rope]}
    if family == "llama":  # they share the code
        check_conformance(json.dumps(entries))
    limit = 64 if rope in ("longrope", "dynamic, from a length") else 256
    assert planned(entries) == served(entries) == limit
    text = json.dumps(entries)
    assert shape_of(text, "m", "float32").weight_bytes(0, 2) == shape_from_config(text, "m", "float32").weight_bytes(
        0, 2
    )


@pytest.mark.parametrize("dtype", ["auto", None, "torch.bfloat16", "nonsense", ["float32"], 3])
@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_no_dtype_of_a_configuration_keeps_a_model_from_being_served(key: str, dtype: object) -> None:
    text = json.dumps({"model_type": "llama", **SIZES, key: dtype})
    assert shape_of(text, "m", "bfloat16").layer_bytes == shape_from_config(text, "m").layer_bytes


@pytest.mark.parametrize("infinity", ["Infinity", '{"__float__": "Infinity"}'])
def test_numbers_that_json_lacks_are_read_as_transformers_writes_them(infinity: str) -> None:
    said = AutoConfig.for_model("bamba").to_json_string(use_diff=False)
    assert '"__float__": "Infinity"' in said
    entries = {**json.loads(said), "time_step_limit": "LIMIT"}
    config = parse_config(json.dumps(entries).replace('"LIMIT"', f"[0.0, {infinity}]"))
    assert config.time_step_limit == (0.0, float("inf"))


@pytest.mark.parametrize("number", ["Infinity", "NaN", '{"__float__": "NaN"}', "-Infinity"])
@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers", "vocab_size", "max_position_embeddings"])
def test_a_size_that_is_no_number_is_refused(key: str, number: str) -> None:
    text = json.dumps({"model_type": "llama", **SIZES, key: "SIZE"}).replace('"SIZE"', number)
    with pytest.raises(WeightsInvalid, match=r"config\.json"):
        shape_from_config(text, "m")
    with pytest.raises((WeightsInvalid, UnsupportedModel)):
        shape_of(text, "m", "float32")


@pytest.mark.parametrize(
    ("entries", "name"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "gptq"),
        ({"quantization_config": {"quant_method": "fp8"}}, "fp8"),
        ({"quantization_config": {"bits": 4, "group_size": 64}}, "4 bits"),
        ({"quantization": {"group_size": 64, "bits": 8}}, "8 bits"),
        ({"compression_config": {"quant_method": "compressed-tensors"}}, "compressed-tensors"),
        ({"quantization_config": "awq"}, "awq"),
        ({"quantization_config": {"a": 1}}, "some bits"),
        (
            {"text_config": {"model_type": "llama", "quantization_config": {"quant_method": "bitsandbytes"}}},
            "bitsandbytes",
        ),
        ({"quantization_config": None}, ""),
        ({"quantization_config": {}}, ""),
        ({"text_config": {"model_type": "llama", "quantization_config": None}}, ""),
        ({"text_config": "llama"}, ""),
    ],
)
def test_quantised_weights_are_known_by_the_name_of_the_method(entries: dict[str, object], name: str) -> None:
    assert packing_of(entries) == name
    assert packing_of(unpacked(entries)) == ""
    text = json.dumps({"model_type": "llama", **SIZES, **entries})
    if name in ("gptq", "fp8", "awq"):
        parse_config(text)
    elif name:
        with pytest.raises(UnsupportedModel, match=rf"{name}.*the unquantised"):
            parse_config(text)
