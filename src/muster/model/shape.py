"""What a model costs, read off the modules themselves on the meta device. No weights are read.

Parameters are counted, not guessed from the configuration; head sizes are what the attention function receives.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from muster.cost.config_fields import Fields, read_config
from muster.cost.dtypes import check_dtype as check_served
from muster.cost.limits import CONTEXT_ENTRIES, ORIGINAL_ENTRY, ROPE_ENTRIES, longest_context, packing_of
from muster.model.architecture import build_on_meta, find_layers, parse_config
from muster.model.cache import HeadSizes, cache_bytes
from muster.model.checkpoint import check_shape, parameter_dtype, recipe_of, recipes, tied_source, untie
from muster.model.parallel.cuts import degrees_of
from muster.model.probe import parts_of
from muster.model.quantized.chosen import formats_of, head_matrix, matrices
from muster.model.quantized.layouts.view import QuantizedWeights, described_plainly, plainly
from muster.model.stage import stage_tensors
from muster.model.tensor_file import check_plain_dtype
from muster.model.weights import Weights
from muster.spec.few_bits import AS_STORED, FewBits
from muster.spec.model_shape import ModelShape

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def torch_dtype(name: str) -> torch.dtype:
    """Raise `UnsupportedModel` on a dtype that is not served."""
    return DTYPES[check_served(name)]


def shape_of(config_json: str, name: str, dtype: str, few_bits: FewBits = AS_STORED) -> ModelShape:
    """Raises `UnsupportedModel` as `parts_of` does. Attention over the context is not among the FLOPs."""
    config = parse_config(config_json)
    served = torch_dtype(dtype)
    parts = parts_of(config)
    model = build_on_meta(config, served)
    prefix, layers = find_layers(model)
    count = len(layers)
    bytes_of = {parameter: _nbytes(model, parameter, served) for parameter in model.state_dict()}
    few = {**matrices(model), **head_matrix(model)}
    for parameter, form in formats_of(model, config_json, few_bits).items():
        bytes_of[parameter] = few[parameter].bytes_of(form, served.itemsize)
    text = config.get_text_config(decoder=True)

    def outside(first: int, last: int) -> int:
        """Of parameters outside the layers; those that are tied to each other count once."""
        names = {tied_source(model, name) or name for name in stage_tensors(model, parts, first, last)}
        return sum(bytes_of[name] for name in names if not name.startswith(f"{prefix}."))

    embedding_bytes, head_bytes = outside(0, 0), outside(count, count)
    return ModelShape(
        name=name,
        architecture=type(model).__name__,
        dtype=dtype,
        num_layers=count,
        hidden_size=int(text.hidden_size),
        vocab_size=int(text.vocab_size),
        max_context=max_context(config),
        layer_bytes=tuple(_sum_below(bytes_of, f"{prefix}.{index}.") for index in range(count)),
        layer_flops_per_token=tuple(_flops(layer, text) for layer in layers),
        kv_bytes_per_token=tuple(cache_bytes(sizes, served.itemsize, few_bits.cache) for sizes in parts.head_sizes),
        embedding_bytes=embedding_bytes,
        head_bytes=head_bytes,
        tied_bytes=embedding_bytes + head_bytes - outside(0, count),
        head_flops_per_token=2 * int(text.vocab_size) * int(text.hidden_size),
        attention_flops_per_pair=tuple(map(_attention_flops, parts.query_heads, parts.head_sizes)),
        windows=parts.windows,
        degrees=degrees_of(model, parts),
        packing=packing_of(read_config(config_json)),
        few_bits=few_bits,
        **_experts(model, layers, bytes_of, text),
    )


def max_context(config: PreTrainedConfig) -> int:
    """The longest sequence that comes out exact: `longest_context` of what the family makes of its config.json."""
    text = config.get_text_config(decoder=True)
    names = (*CONTEXT_ENTRIES, *ROPE_ENTRIES, ORIGINAL_ENTRY)
    return longest_context(Fields({name: getattr(text, name, None) for name in names}))


def tensor_names(weights: Weights, first: int, last: int) -> list[str]:
    """Names of the checkpoint tensors that layers [first, last) need. Raises `WeightsInvalid` if one is missing."""
    config = parse_config(weights.config_json)
    model = build_on_meta(config, torch.float32)
    weights = plainly(weights)
    made = recipes(model, weights.names())
    needed = stage_tensors(model, parts_of(config), first, last)
    untie(model, made, weights, needed)
    wanted = {name for parameter in needed for name, _ in recipe_of(model, made, parameter).sources}
    if isinstance(weights, QuantizedWeights):
        wanted = {source for name in wanted for source in weights.sources(name)}
    return sorted(wanted)


def check_tensors(config_json: str, tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    """Raise `WeightsInvalid` unless these tensors (name -> dtype as the file names it, shape) make up the whole model.

    What a converter puts together (experts, fused projections) is checked when it is loaded.
    """
    config = parse_config(config_json)
    model = build_on_meta(config, torch.float32)
    tensors = described_plainly(config_json, tensors)
    made = recipes(model, tensors)
    for parameter in stage_tensors(model, parts_of(config), 0, len(find_layers(model)[1])):
        recipe = recipe_of(model, made, parameter)
        for source, _ in recipe.sources:
            check_plain_dtype(source, tensors[source][0])
        if recipe.converter is None:
            shape = tensors[recipe.sources[0][0]][1]
            check_shape(parameter, shape, tuple(model.get_parameter_or_buffer(parameter).shape))


def _nbytes(model: PreTrainedModel, parameter: str, dtype: torch.dtype) -> int:
    elements: int = model.get_parameter_or_buffer(parameter).numel()
    return elements * parameter_dtype(model, parameter, dtype).itemsize


def _attention_flops(queries: int, sizes: HeadSizes) -> int:
    """Of one token with one cached token: a score and a weighed value, two for each entry."""
    return 2 * queries * (sizes.key_size + sizes.value_size)


def _experts(model: PreTrainedModel, layers: nn.ModuleList, bytes_of: dict[str, int], config: Any) -> dict[str, Any]:
    """Routed experts are stacked: [experts, out, in]. Empty for a model without."""
    chosen = getattr(config, "num_experts_per_tok", None)
    stacks = [parameter for parameter in layers.parameters() if parameter.dim() == 3]
    if not chosen or not stacks:
        return {}
    prefix, _ = find_layers(model)
    below = [f"{prefix}.{index}." for index in range(len(layers))]
    routed = {name: count for name, count in bytes_of.items() if ".experts." in name}
    return {
        "expert_bytes": tuple(_sum_below(routed, layer) for layer in below),
        "num_experts": stacks[0].shape[0],
        "experts_per_token": min(int(chosen), stacks[0].shape[0]),
    }


def _sum_below(bytes_of: dict[str, int], prefix: str) -> int:
    return sum(count for name, count in bytes_of.items() if name.startswith(prefix))


def _flops(layer: nn.Module, config: Any) -> int:
    """Two per weight and token; of stacked experts ([experts, out, in]) only the chosen ones work."""
    chosen = getattr(config, "num_experts_per_tok", None)
    total = 0.0
    for parameter in layer.parameters():
        if parameter.dim() == 3 and chosen:
            total += 2 * parameter.numel() * min(1.0, chosen / parameter.shape[0])
        elif parameter.dim() >= 2:
            total += 2 * parameter.numel()
    return int(total)
