"""Layers over weights in few bits give what `transformers` gives on the same weights made plain."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import linear
from transformers import PreTrainedModel

from muster.cost.few_bits import WEIGHT_FORMATS
from muster.errors import InvalidRequest
from muster.model.architecture import build_on_meta, find_layers, parse_config
from muster.model.conformance import random_model
from muster.model.quantized.chosen import head_matrix, matrices
from muster.model.quantized.kernel import MOST_ROWS_INT4, int4_agrees, int8_agrees
from muster.model.quantized.linear import QuantizedLinear, hold, times
from muster.model.quantized.matrix import quantized
from muster.model.rehearsal import largest_difference, sequences
from muster.model.shape import shape_of
from muster.model.stage import Stage, build_stage
from muster.model.weights import open_directory
from muster.spec.few_bits import FewBits
from tests.model.families import FAMILIES, LAYERS, save

CPU = torch.device("cpu")
CUTS = (0, 1, 2, LAYERS)


def made_plain(model: PreTrainedModel, form: str) -> PreTrainedModel:
    """The same model with every matrix as it comes back from a format."""
    for name, one in matrices(model).items():
        parameter = model.get_parameter(name)
        values = parameter.data.transpose(-1, -2) if one.transposed else parameter.data
        back = quantized(values, WEIGHT_FORMATS[form], torch.float32).values(torch.float32)
        parameter.data.copy_(back.transpose(-1, -2) if one.transposed else back)
    return model


def held_bytes(stage: Stage) -> int:
    tensors = {id(t): t for t in stage._model.state_dict().values() if not t.is_meta}
    # What `packed` lays out anew has a plain weight in name only.
    layers = find_layers(stage._model)[1][stage.first : stage.last]
    inside = [module for layer in layers for module in layer.modules() if type(module) is nn.Linear]
    packed = [module.weight.nbytes for module in inside if module.weight.is_meta]
    return sum({t.untyped_storage().data_ptr(): t.nbytes for t in tensors.values()}.values()) + sum(packed)


@pytest.mark.parametrize("form", ["int4", "int8", "fp8"])
@pytest.mark.parametrize("family", ["llama", "qwen3-moe", "gpt-oss"])
def test_three_stages_give_what_transformers_gives_on_the_weights_made_plain(
    family: str, form: str, tmp_path: Path
) -> None:
    model = random_model(FAMILIES[family]())
    weights = open_directory(save(model, tmp_path))
    stages = [build_stage(weights, *cut, torch.float32, CPU, few_bits=FewBits(weights=form)) for cut in pairwise(CUTS)]
    tokens = sequences(model.config.vocab_size)
    assert largest_difference(made_plain(model, form), stages, tokens) < 1e-4
    shape = shape_of(weights.config_json, "m", "float32", FewBits(weights=form))
    for stage, (first, last) in zip(stages, pairwise(CUTS), strict=True):
        assert held_bytes(stage) == shape.weight_bytes(first, last)


@pytest.mark.parametrize("form", ["int4", "int8"])
@pytest.mark.parametrize("rows", [1, 5, MOST_ROWS_INT4 + 1])
def test_the_kernels_agree_with_plain_arithmetic(form: str, rows: int) -> None:
    if not (int4_agrees() and int8_agrees()):
        pytest.skip("this processor or PyTorch has none of the kernels")
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(128, 192, generator=generator).to(torch.bfloat16)
    matrix = quantized(weight, WEIGHT_FORMATS[form], torch.bfloat16)
    module = nn.Module()
    hold(module, matrix, torch.bfloat16)
    assert module.kernel == form
    x = torch.randn(rows, 192, generator=generator).to(torch.bfloat16)
    expected = linear(x.float(), matrix.values(torch.float32))
    assert torch.allclose(times(module, x).float(), expected, rtol=0.02, atol=0.02 * float(expected.abs().max()))


def test_codes_are_buffers_with_names_that_stay(tmp_path: Path) -> None:
    weights = open_directory(save(random_model(FAMILIES["llama"]()), tmp_path))
    stage = build_stage(weights, 0, 1, torch.float32, CPU, few_bits=FewBits(weights="int4"))
    layer = stage._model.get_submodule("model.layers.0.self_attn.q_proj")
    assert isinstance(layer, QuantizedLinear)
    assert set(layer.state_dict()) == {"codes", "step", "middle"}
    assert layer.weight.shape == (layer.out_features, layer.in_features)


def test_what_is_large_and_multiplied_plainly_is_chosen_and_nothing_else() -> None:
    model = build_on_meta(parse_config(FAMILIES["gpt-oss"]().to_json_string(use_diff=False)), torch.float32)
    kinds = {name.split(".", 3)[-1] for name in matrices(model)}
    attention = {f"self_attn.{one}_proj.weight" for one in "qkvo"}
    assert kinds == attention | {"mlp.experts.gate_up_proj", "mlp.experts.down_proj"}
    assert set(head_matrix(model)) == {"lm_head.weight"}
    tied = build_on_meta(parse_config(FAMILIES["llama-tied"]().to_json_string(use_diff=False)), torch.float32)
    assert head_matrix(tied) == {}


def test_an_unknown_format_is_named() -> None:
    text = FAMILIES["llama"]().to_json_string(use_diff=False)
    with pytest.raises(InvalidRequest, match="--weights 'int3' is not known; choose one of int4, int8, fp8"):
        shape_of(text, "m", "float32", FewBits(weights="int3"))
    with pytest.raises(InvalidRequest, match="--cache 'fp8' is not known"):
        shape_of(text, "m", "float32", FewBits(cache="fp8"))


@pytest.mark.parametrize(("kept", "most"), [("int8", 0.05), ("int4", 1.0)])
def test_a_cache_in_few_bits_takes_less_and_gives_nearly_the_same(kept: str, most: float, tmp_path: Path) -> None:
    model = random_model(FAMILIES["llama"]())
    weights = open_directory(save(model, tmp_path))
    few = FewBits(cache=kept)
    stages = [build_stage(weights, *cut, torch.float32, CPU, few_bits=few) for cut in pairwise(CUTS)]
    difference = largest_difference(model, stages, sequences(model.config.vocab_size))
    assert 1e-5 < difference < most
    shape = shape_of(weights.config_json, "m", "float32", few)
    assert stages[0].new_cache(3, 16).nbytes == 3 * 16 * shape.cache_bytes_per_token(0, 1)
    plain = shape_of(weights.config_json, "m", "float32")
    assert replace(plain, kv_bytes_per_token=shape.kv_bytes_per_token, few_bits=few) == shape
