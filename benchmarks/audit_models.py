"""The three architectures that the detection table runs on, whole and altered. Deterministic.

tiny     the embedded model: a trained Llama of 6 layers, width 256
gemma3   random weights, sliding window on most layers, norms before and after, width 192
mixtral  random weights, 4 experts of which 2 work, width 256, three channels of the residual stream 20 times as large
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Gemma3TextConfig, MixtralConfig, PreTrainedModel

import muster.model.embedded
from muster.model.conformance import random_model

NUM_LAYERS = 6
STAGES = ((0, 2), (2, 4), (4, 6))
TINY = Path(next(iter(muster.model.embedded.__path__))) / "tiny"
Change = Callable[[Tensor], Tensor]


def gemma3() -> PreTrainedModel:
    return random_model(
        Gemma3TextConfig(
            vocab_size=1024, hidden_size=192, intermediate_size=512, num_hidden_layers=NUM_LAYERS,
            num_attention_heads=4, num_key_value_heads=2, head_dim=48, sliding_window=64, max_position_embeddings=1024,
            layer_types=["sliding_attention"] * 2 + ["full_attention"] + ["sliding_attention"] * 2 + ["full_attention"],
            bos_token_id=None, eos_token_id=None, pad_token_id=None,
        )
    )  # fmt: skip


def mixtral() -> PreTrainedModel:
    model = random_model(
        MixtralConfig(
            vocab_size=1024, hidden_size=256, intermediate_size=320, num_hidden_layers=NUM_LAYERS,
            num_attention_heads=4, num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2,
            max_position_embeddings=1024, bos_token_id=None, eos_token_id=None, pad_token_id=None,
        ),
        seed=1,
    )  # fmt: skip
    with torch.no_grad():
        model.get_input_embeddings().weight[:, [7, 70, 170]] *= 20
    return model


def prepare(folder: Path) -> dict[str, Path]:
    """Where the weights of each lie."""
    paths = {"tiny": TINY}
    for name, build in (("gemma3", gemma3), ("mixtral", mixtral)):
        build().save_pretrained(folder / name)
        paths[name] = folder / name
    return paths


def altered(source: Path, target: Path, change: Mapping[int, Change]) -> Path:
    """The model with the matrices of some layers changed."""
    target.mkdir(parents=True)
    (target / "config.json").write_bytes((source / "config.json").read_bytes())
    for file in source.glob("*.safetensors"):
        tensors = {name: _changed(name, tensor, change) for name, tensor in load_file(file).items()}
        save_file(tensors, target / file.name, metadata={"format": "pt"})
    return target


def _changed(name: str, tensor: Tensor, change: Mapping[int, Change]) -> Tensor:
    parts = name.split(".")
    layer = int(parts[parts.index("layers") + 1]) if "layers" in parts else -1
    if layer not in change or tensor.dim() < 2:
        return tensor
    return change[layer](tensor.float()).to(tensor.dtype).contiguous()


def rounded_to(bits: int, group: int = 0) -> Change:
    """Symmetric integers with a scale for each row, or for each `group` of a row."""
    most = 2 ** (bits - 1) - 1

    def change(weight: Tensor) -> Tensor:
        shape = weight.shape
        grouped = weight.reshape(-1, group if group and shape[-1] % group == 0 else shape[-1])
        scale = grouped.abs().amax(dim=-1, keepdim=True).clamp_min(1e-12) / most
        return ((grouped / scale).round().clamp(-most, most) * scale).reshape(shape)

    return change


def shuffled(weight: Tensor) -> Tensor:
    """What another checkpoint of the same shape has there: the same numbers in other places."""
    order = torch.randperm(weight.numel(), generator=torch.Generator().manual_seed(5))
    return weight.flatten()[order].reshape(weight.shape)


def of_layers(layers: Sequence[int], change: Change) -> dict[int, Change]:
    return dict.fromkeys(layers, change)
