"""Models with random weights for `offload.py`: real shapes, several gigabytes, written without being held in memory."""

import json
import shutil
import struct
from pathlib import Path

import torch

LLAMA_7B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "num_hidden_layers": 32,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "bos_token_id": 1,
    "eos_token_id": 2,
}
"""Llama-2-7B as its config.json has it."""


def llama(**changes: object) -> dict[str, object]:
    return {**LLAMA_7B, **changes}


def shapes(config: dict) -> dict[str, tuple[int, ...]]:
    """Name -> shape of each tensor of a Llama checkpoint, in the order in which a step reads them."""
    hidden, inner, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    kv = config["num_key_value_heads"] * hidden // heads
    made = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    for layer in range(config["num_hidden_layers"]):
        name = f"model.layers.{layer}"
        made |= {
            f"{name}.input_layernorm.weight": (hidden,),
            f"{name}.mlp.down_proj.weight": (hidden, inner),
            f"{name}.mlp.gate_proj.weight": (inner, hidden),
            f"{name}.mlp.up_proj.weight": (inner, hidden),
            f"{name}.post_attention_layernorm.weight": (hidden,),
            f"{name}.self_attn.k_proj.weight": (kv, hidden),
            f"{name}.self_attn.o_proj.weight": (hidden, hidden),
            f"{name}.self_attn.q_proj.weight": (hidden, hidden),
            f"{name}.self_attn.v_proj.weight": (kv, hidden),
        }
    made["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        made["lm_head.weight"] = (config["vocab_size"], hidden)
    return made


def write_llama(folder: Path, config: dict, dtype: torch.dtype = torch.bfloat16) -> int:
    """Bytes of the weights. A folder that is whole already stays as it is."""
    wanted = json.dumps(config | {"torch_dtype": str(dtype).removeprefix("torch.")}, sort_keys=True)
    target = folder / "model.safetensors"
    if (folder / "config.json").is_file() and (folder / "config.json").read_text() == wanted:
        return target.stat().st_size
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    header, end = {}, 0
    all_shapes = shapes(config)
    for name, shape in all_shapes.items():
        size = torch.Size(shape).numel() * dtype.itemsize
        label = {torch.bfloat16: "BF16", torch.float32: "F32", torch.float16: "F16"}[dtype]
        header[name] = {"dtype": label, "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2**24 + 2**12, generator=generator)
    with target.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for index, (name, shape) in enumerate(all_shapes.items()):
            count = torch.Size(shape).numel()
            if "norm" in name:
                file.write(torch.ones(count, dtype=dtype).view(torch.uint8).numpy().data)
                continue
            scaled = (noise[index : index + 2**24] * shape[-1] ** -0.5).to(dtype)
            for at in range(0, count, 2**24):
                file.write(scaled[: min(2**24, count - at)].view(torch.uint8).numpy().data)
            file.flush()
    (folder / "config.json").write_text(wanted)
    return end
