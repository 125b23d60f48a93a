"""A model's folder from tensors by the names of modules: what plain `transformers` loads. Knows no training."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from muster.cost.config_fields import read_config
from muster.model.architecture import build_on_meta, parse_config
from muster.model.checkpoint import tied_source
from muster.model.folder import READ_WHOLE
from muster.model.settings import building
from muster.model.shape import DTYPES

logging.disable_progress_bar()
"""Who saves a model shows progress, if anybody does."""
_OWN = ("config.json", "model.safetensors.index.json")


def save_model(config_json: str, tensors: Mapping[str, Tensor], folder: Path, dtype: torch.dtype) -> None:
    """Write config.json and safetensors. `transformers` itself undoes what it renames or fuses when it loads."""
    model = build_on_meta(parse_config(config_json), dtype, "eager")
    given = {name: tensor.detach().to("cpu", dtype) for name, tensor in tensors.items() if tensor.is_floating_point()}
    given |= {name: tensor.cpu() for name, tensor in tensors.items() if name not in given}
    for name in model.state_dict():
        source = tied_source(model, name)
        if source in given and (name not in given or torch.equal(given[name], given[source])):
            given[name] = given[source]
    model.load_state_dict(given, strict=True, assign=True)
    model.save_pretrained(folder)


def write_random_model(config_json: str, seed: int, folder: Path) -> None:
    """A model of this configuration with the weights that its architecture begins with."""
    with building(), torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(parse_config(config_json), dtype=torch.float32)
    model.save_pretrained(folder)


def stored_dtype(config_json: str) -> torch.dtype:
    """What the configuration says that its weights are in; float32 where it says nothing that is known."""
    fields = read_config(config_json)
    return DTYPES.get(str(fields.get("dtype") or fields.get("torch_dtype")).removeprefix("torch."), torch.float32)


def copy_companions(source: Path, folder: Path) -> None:
    """Tokenizer, chat template and the like, which training does not change."""
    for path in sorted({path for pattern in READ_WHOLE for path in source.glob(pattern)}):
        if path.name not in _OWN and path.is_file():
            shutil.copyfile(path, folder / path.name)
