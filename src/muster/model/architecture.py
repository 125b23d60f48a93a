"""From the text of a config.json to a model without weights. Knows nothing of stages.

The model is built on the meta device: every module and parameter is there, with its shape, and takes no memory.
"""

from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from muster.cost.config_fields import decoder_entries, read_config
from muster.cost.limits import unpacked
from muster.cost.published import published_of
from muster.errors import UnsupportedModel, WeightsInvalid
from muster.model.attention import ATTENTION_NAME
from muster.model.settings import building

MAX_LAYERS = 1024
"""Each is a few dozen Python objects even without memory; the deepest published decoders have under 200."""


def parse_config(config_json: str) -> PreTrainedConfig:
    """Raise `WeightsInvalid` on unreadable text, `UnsupportedModel` on an architecture that is not a known decoder."""
    fields = read_config(config_json)
    model_type = fields.get("model_type")
    if not isinstance(model_type, str):
        raise WeightsInvalid("config.json names no model_type; download the model again.")
    if published_of(fields) is not None:  # raises on what is not read
        fields = unpacked(fields)
    fields, model_type = _text_part(fields, model_type)
    if model_type not in CONFIG_MAPPING:
        raise UnsupportedModel(
            f"transformers does not know the architecture {model_type[:60]!r}; upgrade transformers, or choose "
            "another model (Muster never runs code that comes with a model)."
        )
    if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise UnsupportedModel(f"{model_type} is not a text decoder; choose a causal language model.")
    config = _without_code(model_type, fields)
    count = getattr(config.get_text_config(decoder=True), "num_hidden_layers", None)
    if not isinstance(count, int) or not 0 < count <= MAX_LAYERS:
        raise WeightsInvalid(
            f"config.json says {str(count)[:20]} layers where 1 to {MAX_LAYERS} can be; download the model again."
        )
    return config


def _text_part(fields: dict[str, Any], model_type: str) -> tuple[dict[str, Any], str]:
    """The decoder inside a model that also sees or hears (Gemma 3, Mistral 3, LLaVA): text is all that is served."""
    text = fields.get("text_config")
    if not isinstance(text, dict) or text.get("model_type") not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return fields, model_type
    return decoder_entries(fields, text), text["model_type"]


def _without_code(model_type: str, fields: dict[str, Any]) -> PreTrainedConfig:
    """The configuration with every pointer to code in the repository dropped.

    The dtype goes, too: it is ours to say (`build_on_meta`), and `auto` or an unknown one would be an error.
    """
    dropped = ("auto_map", "model_type", "dtype", "torch_dtype")
    kept = {key: value for key, value in fields.items() if key not in dropped}
    try:
        return AutoConfig.for_model(model_type, **kept)
    except Exception as error:  # each configuration class validates in its own way
        raise WeightsInvalid(
            f"config.json is not valid for the architecture {model_type}: {first_line(error)}; "
            "download the model again."
        ) from error


def first_line(error: Exception) -> str:
    """What an error says: its first line, and the next where the first only announces it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1])[:200]


def build_on_meta(config: PreTrainedConfig, dtype: torch.dtype, attention: str = ATTENTION_NAME) -> PreTrainedModel:
    """The whole model without memory, in inference mode, attending through `attention`."""
    try:
        with building(), torch.device("meta"), no_init_weights():
            model = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=dtype)
    except Exception as error:  # each of some 200 constructors fails in its own way
        if isinstance(error, KeyError) and attention in str(error):
            raise UnsupportedModel(
                f"{config.model_type} chooses among attention classes of its own and never calls the attention "
                "interface; choose another architecture."
            ) from error
        raise UnsupportedModel(
            f"{config.model_type} cannot be built as a causal language model: {first_line(error)}; "
            "choose another architecture."
        ) from error
    model.eval()
    model.requires_grad_(False)
    return model


def num_layers(config: PreTrainedConfig) -> int:
    return int(config.get_text_config(decoder=True).num_hidden_layers)


def find_layers(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """Name and list of the decoder layers: the one outermost list as long as the configuration says."""
    count = num_layers(model.config)
    found: list[tuple[str, nn.ModuleList]] = []
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer, _ in found)
        if isinstance(module, nn.ModuleList) and len(module) == count and not inside:
            found.append((name, module))
    if len(found) != 1:
        raise UnsupportedModel(
            f"{type(model).__name__} has {len(found)} lists of {count} layers where one is expected, so it cannot be "
            "split into stages; choose another architecture."
        )
    return found[0]


def outside_layers(model: PreTrainedModel) -> list[str]:
    """Names of the modules outside the decoder layers that own parameters."""
    prefix = f"{find_layers(model)[0]}."
    return [
        name
        for name, module in model.named_modules()
        if not name.startswith(prefix) and next(module.parameters(recurse=False), None) is not None
    ]


def layer_window(config: PreTrainedConfig, layer: int) -> int | None:
    """The window that the configuration gives to a layer of type `sliding_attention`, else None."""
    text = config.get_text_config(decoder=True)
    types = getattr(text, "layer_types", None)
    if not types or types[layer] != "sliding_attention":
        return None
    return getattr(text, "sliding_window", None)


def fill_buffers(model: PreTrainedModel, skip: frozenset[str]) -> None:
    """Compute buffers that no checkpoint holds (rotary frequencies and the like), which the meta device left empty.

    `transformers` itself restores them through `_init_weights`; modules named in `skip`, and below, stay as they are.
    """
    transient = {name for name, _ in model.named_non_persistent_buffers()}
    for name, module in model.named_modules():
        if any(name == prefix or name.startswith(f"{prefix}.") for prefix in skip):
            continue
        own = [key for key, buffer in module.named_buffers(recurse=False) if buffer.is_meta]
        own = [key for key in own if (f"{name}.{key}" if name else key) in transient]
        if own:
            for key in own:
                module._buffers[key] = torch.zeros_like(module._buffers[key], device="cpu")
            with building(), torch.no_grad():
                model._init_weights(module)
