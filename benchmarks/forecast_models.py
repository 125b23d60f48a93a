"""The three models of the forecast benchmark: the embedded one, a dense one and one of experts. Deterministic weights.

Knows how to put them into a folder that `muster serve` takes; knows nothing of pools.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from transformers import MixtralConfig, MixtralForCausalLM, PreTrainedModel

from benchmarks.workload import llama
from muster.model.shape import shape_of
from muster.model.source import resolve
from muster.model.weights import open_directory
from muster.spec.model_shape import ModelShape
from tests.text.small_tokenizers import train_byte_level

DTYPE = "float32"
EMBEDDED = "tiny"


def mixtral(hidden_size: int = 384, num_layers: int = 6, vocab_size: int = 8192) -> MixtralForCausalLM:
    """Four experts of which every token takes two."""
    config = MixtralConfig(
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=hidden_size // 64,
        num_key_value_heads=hidden_size // 128,
        num_local_experts=4,
        num_experts_per_tok=2,
        vocab_size=vocab_size,
        max_position_embeddings=2048,
        eos_token_id=None,
        bos_token_id=None,
        pad_token_id=None,
    )
    torch.manual_seed(0)
    return MixtralForCausalLM(config).eval()


MAKERS: dict[str, Callable[[], PreTrainedModel]] = {"dense": lambda: llama(512, 8, 16384), "experts": mixtral}
NAMES = (EMBEDDED, *MAKERS)


def folder_of(name: str, home: Path) -> str:
    """What `muster serve` is told: a name it knows, or a folder under `home` with weights and a tokenizer."""
    if name == EMBEDDED:
        return EMBEDDED
    folder = home / name
    if not (folder / "tokenizer.json").exists():
        model = MAKERS[name]()
        model.save_pretrained(folder)
        tokenizer = train_byte_level()
        # Every token that comes out must be text at once: the first one is waited for.
        tokenizer.add_tokens([f"<{id}>" for id in range(tokenizer.get_vocab_size(), model.config.vocab_size)])
        tokenizer.save(str(folder / "tokenizer.json"))
    return str(folder)


def shape_in(folder: str) -> ModelShape:
    return shape_of(open_directory(resolve(folder)).config_json, folder, DTYPE)
