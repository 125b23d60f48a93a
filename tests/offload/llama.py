"""A Llama of a few hundred kilobytes per layer, with random weights in a folder."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from muster.model.architecture import parse_config
from muster.model.conformance import random_model
from muster.model.weights import DirectoryWeights, open_directory

FIELDS = {
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
}


@dataclass(frozen=True)
class Written:
    path: Path

    @property
    def weights(self) -> DirectoryWeights:
        return open_directory(self.path)

    @property
    def file(self) -> Path:
        return self.path / "model.safetensors"


def write(folder: Path, dtype: torch.dtype = torch.float32, **changes: object) -> Written:
    fields = {**FIELDS, **changes}
    model = random_model(parse_config(json.dumps(fields)))
    tensors = {name: tensor.to(dtype).contiguous() for name, tensor in model.state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(fields))
    return Written(folder)
