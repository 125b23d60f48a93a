"""Checkpoints in few bits, written from the descriptions of their formats, beside the plain values they stand for.

Values are worked out here one way and read by Muster another: nothing is imported from the readers.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import GptOssConfig, LlamaConfig, PreTrainedModel, Qwen3MoeConfig

from muster.model.conformance import random_model
from tests.model.families import LAYERS, VOCAB, WINDOW

Parts = dict[str, Tensor]
Write = Callable[[str, Tensor], tuple[Parts, Tensor]]
"""Stem and plain weight [O, I] -> tensors of the checkpoint, and the weight that they stand for."""
SIZES = {"vocab_size": VOCAB, "hidden_size": 64, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
         "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 96, "max_position_embeddings": 64,
         "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}  # fmt: skip
GROUP = 32


def llama() -> PreTrainedModel:
    return random_model(LlamaConfig(**SIZES))


def mixture() -> PreTrainedModel:
    return random_model(
        Qwen3MoeConfig(**SIZES, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, mlp_only_layers=[0])
    )


def gpt_oss() -> PreTrainedModel:
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    sizes = SIZES | {"intermediate_size": 64}
    return random_model(
        GptOssConfig(**sizes, num_local_experts=4, num_experts_per_tok=2, sliding_window=WINDOW, layer_types=kinds)
    )


def packed(codes: Tensor, bits: int, order: tuple[int, ...] | None = None) -> Tensor:
    """Codes from 0 on along the last dimension into int32, the first in the lowest bits."""
    per = 32 // bits
    words = torch.nn.functional.pad(codes.long(), (0, -codes.shape[-1] % per)).unflatten(-1, (-1, per))
    words = words[..., list(order)] if order else words
    total = sum(words[..., place] << (bits * place) for place in range(per))
    return torch.where(total >= 2**31, total - 2**32, total).to(torch.int32)


def _asymmetric(w: Tensor, bits: int, group: int) -> tuple[Tensor, Tensor, Tensor]:
    """Codes [O, I] from 0 on, zero points and scales [O, I / group]."""
    parts = w.unflatten(-1, (-1, group))
    least, most = parts.amin(-1).clamp(max=0), parts.amax(-1).clamp(min=0)
    scale = ((most - least) / (2**bits - 1)).half().float()
    zero = (-least / scale).round().clamp(1, 2**bits - 1)
    codes = ((parts / scale[..., None]).round() + zero[..., None]).clamp(0, 2**bits - 1)
    return codes.flatten(-2), zero, scale


def _plain(codes: Tensor, zero: Tensor, scale: Tensor, groups: Tensor) -> Tensor:
    return (codes - zero[:, groups]) * scale[:, groups]


def gptq(bits: int = 4, version: int = 1, act_order: bool = False) -> Write:
    def write(stem: str, w: Tensor) -> tuple[Parts, Tensor]:
        groups = torch.arange(w.shape[1]) // GROUP
        shuffled = torch.randperm(w.shape[1], generator=torch.Generator().manual_seed(3)) if act_order else None
        columns = w if shuffled is None else w[:, shuffled]
        codes, zero, scale = _asymmetric(columns, bits, GROUP)
        if shuffled is not None:
            back = torch.argsort(shuffled)
            codes, groups = codes[:, back], groups[back]
        parts = {
            f"{stem}.qweight": packed(codes, bits).t().contiguous(),
            f"{stem}.qzeros": packed((zero - int(version == 1)).t(), bits).contiguous(),
            f"{stem}.scales": scale.t().half().contiguous(),
            f"{stem}.g_idx": groups.to(torch.int32),
        }
        return parts, _plain(codes, zero, scale, groups)

    return write


def awq(stem: str, w: Tensor) -> tuple[Parts, Tensor]:
    codes, zero, scale = _asymmetric(w, 4, GROUP)
    order = (0, 2, 4, 6, 1, 3, 5, 7)
    parts = {
        f"{stem}.qweight": packed(codes.t(), 4, order).contiguous(),
        f"{stem}.qzeros": packed(zero.t(), 4, order).contiguous(),
        f"{stem}.scales": scale.t().half().contiguous(),
    }
    return parts, _plain(codes, zero, scale, torch.arange(w.shape[1]) // GROUP)


def pack_quantized(bits: int, group: int | None, even: bool = True) -> Write:
    def write(stem: str, w: Tensor) -> tuple[Parts, Tensor]:
        size, half = group or w.shape[1], 2 ** (bits - 1)
        groups = torch.arange(w.shape[1]) // size
        if even:
            scale = (w.unflatten(-1, (-1, size)).abs().amax(-1) / (half - 0.5)).bfloat16().float()
            codes = (w / scale[:, groups]).round().clamp(-half, half - 1) + half
            zero = torch.full_like(scale, half)
        else:
            codes, zero, scale = _asymmetric(w, bits, size)
        parts = {
            f"{stem}.weight_packed": packed(codes, bits),
            f"{stem}.weight_scale": scale.half() if not even else scale.bfloat16(),
            f"{stem}.weight_shape": torch.tensor(w.shape),
        }
        if not even:
            parts[f"{stem}.weight_zero_point"] = packed(zero.t(), bits).t().contiguous()
        return parts, _plain(codes, zero, scale, groups)

    return write


def int_quantized(stem: str, w: Tensor) -> tuple[Parts, Tensor]:
    scale = (w.abs().amax(-1, keepdim=True) / 127).bfloat16()
    codes = (w / scale.float()).round().clamp(-127, 127)
    return {f"{stem}.weight": codes.to(torch.int8), f"{stem}.weight_scale": scale}, codes * scale.float()


def float_quantized(stem: str, w: Tensor) -> tuple[Parts, Tensor]:
    scale = w.abs().amax(-1, keepdim=True) / 448
    codes = (w / scale).to(torch.float8_e4m3fn)
    return {f"{stem}.weight": codes, f"{stem}.weight_scale": scale}, codes.float() * scale


def fp8_blocks(stem: str, w: Tensor) -> tuple[Parts, Tensor]:
    """Blocks of 32 x 48, which do not divide what they cut."""
    scale = torch.rand(-(-w.shape[0] // 32), -(-w.shape[1] // 48), generator=torch.Generator().manual_seed(1)) + 0.5
    wide = scale.repeat_interleave(32, 0)[: w.shape[0]].repeat_interleave(48, 1)[:, : w.shape[1]]
    codes = (w / wide).to(torch.float8_e4m3fn)
    return {f"{stem}.weight": codes, f"{stem}.weight_scale_inv": scale}, codes.float() * wide


FLOAT4 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])


def mxfp4(stem: str, w: Tensor) -> tuple[Parts, Tensor]:
    """Of experts as the module has them, [E, I, O]."""
    blocks = w.transpose(1, 2).unflatten(-1, (-1, 32))
    exponent = torch.floor(torch.log2(blocks.abs().amax(-1))) - 2
    scaled = blocks / 2 ** exponent[..., None]
    codes = (scaled.abs()[..., None] - FLOAT4).abs().argmin(-1)
    plain = FLOAT4[codes] * scaled.sign() * 2 ** exponent[..., None]
    codes = codes + 8 * (scaled < 0)
    parts = {
        f"{stem}_blocks": (codes[..., ::2] | codes[..., 1::2] << 4).to(torch.uint8).contiguous(),
        f"{stem}_scales": (exponent + 127).to(torch.uint8).contiguous(),
    }
    return parts, plain.flatten(-2).transpose(1, 2).contiguous()


def _ct(form: str, **weights: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": {"symmetric": True, "type": "int", **weights}}
    return {"quant_method": "compressed-tensors", "format": form, "config_groups": {"group_0": group},
            "ignore": ["lm_head", "re:.*mlp.gate$"]}  # fmt: skip


_GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False}
LAYOUTS: dict[str, tuple[Callable[[], PreTrainedModel], Write, dict[str, Any]]] = {
    "gptq": (llama, gptq(), _GPTQ),
    "gptq-8": (llama, gptq(8), _GPTQ | {"bits": 8}),
    "gptq-v2": (llama, gptq(version=2), _GPTQ | {"checkpoint_format": "gptq_v2"}),
    "gptq-act-order": (llama, gptq(act_order=True), _GPTQ | {"desc_act": True}),
    "gptq-moe": (mixture, gptq(), _GPTQ),
    "awq": (llama, awq, {"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemm", "zero_point": True}),
    "ct-w4a16": (
        llama,
        pack_quantized(4, GROUP),
        _ct("pack-quantized", num_bits=4, strategy="group", group_size=GROUP),
    ),
    "ct-w4a16-asym": (
        llama,
        pack_quantized(4, GROUP, even=False),
        _ct("pack-quantized", num_bits=4, strategy="group", group_size=GROUP, symmetric=False),
    ),
    "ct-w8a16": (llama, pack_quantized(8, None), _ct("pack-quantized", num_bits=8, strategy="channel")),
    "ct-w8a8-int": (mixture, int_quantized, _ct("int-quantized", num_bits=8, strategy="channel")),
    "ct-w8a8-fp8": (llama, float_quantized, _ct("float-quantized", num_bits=8, type="float", strategy="channel")),
    "fp8": (mixture, fp8_blocks, {"quant_method": "fp8", "weight_block_size": [32, 48]}),
    "mxfp4": (gpt_oss, mxfp4, {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}),
}


def publish(name: str, folder: Path) -> PreTrainedModel:
    """Write a checkpoint, and return the model with what its codes stand for."""
    make, write, says = LAYOUTS[name]
    model = make()
    model.save_pretrained(folder)
    tensors, kept = load_file(folder / "model.safetensors"), {}
    state = model.state_dict()
    for key, value in tensors.items():
        stem = key.removesuffix(".weight")
        if not _is_chosen(key, value, says["quant_method"]):
            kept[key] = value
            continue
        parts, plain = write(stem, value)
        kept |= parts
        _put(state, key, plain)
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": says}))
    return model


def _is_chosen(key: str, value: Tensor, method: str) -> bool:
    if ".layers." not in key or value.dim() < 2:
        return False
    if method == "mxfp4":
        return key.endswith(("experts.gate_up_proj", "experts.down_proj"))
    return key.endswith("_proj.weight")


def _put(state: dict[str, Tensor], key: str, plain: Tensor) -> None:
    """Into the model: published checkpoints of mixtures have each expert by itself."""
    if key in state:
        state[key].copy_(plain)
        return
    before, _, rest = key.partition(".experts.")
    expert, kind, _ = rest.split(".")
    if kind == "down_proj":
        state[f"{before}.experts.down_proj"][int(expert)].copy_(plain)
        return
    both = state[f"{before}.experts.gate_up_proj"][int(expert)]
    half = both.shape[0] // 2
    both[:half] = plain if kind == "gate_proj" else both[:half]
    both[half:] = plain if kind == "up_proj" else both[half:]
