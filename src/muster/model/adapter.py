"""Low-rank adapters on the layers that a stage holds, by `peft` (Hu et al., 2021). Knows no training.

Which multiplications get them is one pattern over names of modules, so that every cut of a model has the same ones, and
what they begin with depends on the seed and their own name alone.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from blake3 import blake3
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from muster.errors import InvalidRequest, Unsupported, WeightsInvalid
from muster.model.architecture import build_on_meta, find_layers, parse_config
from muster.spec.training import LoraTable

ADAPTER_FILE, CONFIG_FILE = "adapter_model.safetensors", "adapter_config.json"
_WRAPPED = "base_model.model."
"""What `peft` puts before the names in its files."""


def adapter_config(config_json: str, lora: LoraTable, base: str) -> Any:
    """`peft`'s own, for a whole model. Raises `InvalidRequest` on modules that its layers do not have."""
    peft = _peft()
    model = build_on_meta(parse_config(config_json), torch.float32, "eager")
    prefix, layers = find_layers(model)
    kinds = {name.rpartition(".")[2]: type(module) for name, module in layers.named_modules() if _multiplies(module)}
    unknown = [name for name in lora.modules if name not in kinds]
    if unknown or not kinds:
        raise InvalidRequest(
            f"The layers of {type(model).__name__} have no multiplication {', '.join(unknown)}; "
            f"choose among {', '.join(sorted(kinds))}.",
            "lora.modules",
        )
    chosen = sorted(lora.modules or kinds)
    return peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=rf"(.*\.)?{re.escape(prefix)}\.\d+\.(.*\.)?({'|'.join(map(re.escape, chosen))})",
        fan_in_fan_out=any(kinds[name] is Conv1D for name in chosen),
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
    )


def add_adapters(model: PreTrainedModel, config: Any, seed: int) -> None:
    """Only they are trained from now on. They change nothing until they are."""
    _peft().inject_adapter_in_model(config, model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
        if "lora_A" in name:
            digest = blake3(f"{seed} {name}".encode()).digest()[:7]
            generator = torch.Generator().manual_seed(int.from_bytes(digest, "big"))
            bound = parameter.shape[1] ** -0.5
            start = torch.rand(parameter.shape, generator=generator) * (2 * bound) - bound
            with torch.no_grad():
                parameter.copy_(start)


def merge_adapters(model: PreTrainedModel) -> None:
    """Add what the adapters have learned to the weights beside them."""
    from peft.tuners.lora import LoraLayer

    for module in model.modules():
        if isinstance(module, LoraLayer) and not module.merged:
            module.merge()


def without_adapters(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the model itself, by the names that they had before."""
    return {name.replace(".base_layer.", "."): tensor for name, tensor in tensors.items() if "lora_" not in name}


def save_adapters(tensors: Mapping[str, Tensor], config: Any, folder: Path) -> None:
    """What `PeftModel.from_pretrained` loads."""
    named = {_in_file(name): tensor.detach().cpu().contiguous() for name, tensor in tensors.items() if "lora_" in name}
    save_file(named, folder / ADAPTER_FILE, {"format": "pt"})
    fields = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    (folder / CONFIG_FILE).write_text(json.dumps({**fields, "inference_mode": True}, indent=2, default=str))


def load_adapters(parameters: Mapping[str, nn.Parameter], folder: Path) -> None:
    """Raises `WeightsInvalid` unless every one of `parameters` is there."""
    saved = load_file(folder / ADAPTER_FILE)
    for name, parameter in parameters.items():
        tensor = saved.get(_in_file(name))
        if tensor is None or tensor.shape != parameter.shape:
            raise WeightsInvalid(f"{folder / ADAPTER_FILE} has no adapter {name} of this rank; remove this checkpoint.")
        with torch.no_grad():
            parameter.copy_(tensor)


def _in_file(name: str) -> str:
    return _WRAPPED + name.replace(".default.", ".")


def _multiplies(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | Conv1D)


def _peft() -> Any:
    try:
        import peft
    except ImportError:
        raise Unsupported(
            "Adapters need the package peft; install it with `pip install 'muster-llm[train]'`, or leave out [lora].",
            "lora",
        ) from None
    return peft
