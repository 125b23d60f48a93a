"""Tiny configurations of many families, each with the trait that makes the family hard."""

from collections.abc import Callable
from pathlib import Path

import torch
from transformers import (
    DeepseekV2Config,
    DeepseekV3Config,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    GptOssConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    OPTConfig,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

from muster.model.conformance import random_model

LAYERS = 3
VOCAB = 61
WINDOW = 6
"""Shorter than the rehearsed sequences."""

BASE = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GATED = {**BASE, "intermediate_size": 40, "num_key_value_heads": 2}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 24}
LATENT = {
    "kv_lora_rank": 8,
    "q_lora_rank": 12,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 6,
    "n_routed_experts": 4,
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "num_key_value_heads": 4,
    **EXPERTS,
}
ALTERNATING = ["sliding_attention", "full_attention", "sliding_attention"]

FAMILIES: dict[str, Callable[[], PreTrainedConfig]] = {
    "llama": lambda: LlamaConfig(**GATED, rope_parameters={"rope_type": "default", "rope_theta": 10000.0}),
    "llama-tied": lambda: LlamaConfig(**GATED, tie_word_embeddings=True, attention_bias=True),
    "llama-rope-3": lambda: LlamaConfig(
        **GATED,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    ),
    "mistral": lambda: MistralConfig(**GATED, sliding_window=WINDOW),
    "mixtral": lambda: MixtralConfig(**GATED, num_local_experts=4, num_experts_per_tok=2, sliding_window=None),
    "qwen2": lambda: Qwen2Config(**GATED, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1),
    "qwen3": lambda: Qwen3Config(**GATED, head_dim=12),
    "qwen3-moe": lambda: Qwen3MoeConfig(**GATED, **EXPERTS, num_experts=4, head_dim=8, mlp_only_layers=[0]),
    "gemma2": lambda: Gemma2Config(
        **GATED,
        head_dim=8,
        sliding_window=WINDOW,
        layer_types=ALTERNATING,
        query_pre_attn_scalar=5,
        attn_logit_softcapping=3.0,
        final_logit_softcapping=2.0,
    ),
    "gemma3": lambda: Gemma3TextConfig(
        **GATED, head_dim=8, sliding_window=WINDOW, layer_types=ALTERNATING, query_pre_attn_scalar=5
    ),
    "phi3": lambda: Phi3Config(**GATED, sliding_window=WINDOW, partial_rotary_factor=0.5),
    "opt": lambda: OPTConfig(**BASE, ffn_dim=40, word_embed_proj_dim=32),
    "opt-projected": lambda: OPTConfig(**BASE, ffn_dim=40, word_embed_proj_dim=20, do_layer_norm_before=False),
    "gpt2": lambda: GPT2Config(
        vocab_size=VOCAB, n_embd=32, n_layer=LAYERS, n_head=4, n_positions=64, scale_attn_by_inverse_layer_idx=True
    ),
    "gpt-neox": lambda: GPTNeoXConfig(**BASE, intermediate_size=40, rotary_pct=0.5),
    "olmo2": lambda: Olmo2Config(**GATED),
    "gpt-oss": lambda: GptOssConfig(
        **GATED, head_dim=8, num_local_experts=4, num_experts_per_tok=2, sliding_window=WINDOW, layer_types=ALTERNATING
    ),
    "deepseek-v2": lambda: DeepseekV2Config(
        **{**GATED, **LATENT, "q_lora_rank": None}, topk_method="group_limited_greedy", n_shared_experts=1
    ),
    "deepseek-v3": lambda: DeepseekV3Config(**{**GATED, **LATENT}, n_shared_experts=1),
}


def dense_model(family: str) -> PreTrainedModel:
    """The dense reference, eager attention, float32, random weights."""
    return random_model(FAMILIES[family]())


def save(model: PreTrainedModel, path: Path, shard_bytes: int = 2**30) -> Path:
    """As anybody would save it: safetensors under the names of published checkpoints."""
    model.save_pretrained(path, max_shard_size=shard_bytes)
    return path


CPU = torch.device("cpu")
