"""The random-weight model and the requests that the engine's benchmarks share. Deterministic."""

import random
from itertools import pairwise
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from muster.spec.request import Request
from muster.spec.sampling import Sampling

MAX_CONTEXT = 2048


def llama(hidden_size: int, num_layers: int, vocab_size: int) -> LlamaForCausalLM:
    """A Llama with random weights; grouped-query attention with two query heads per key head."""
    config = LlamaConfig(
        hidden_size=hidden_size,
        intermediate_size=hidden_size * 11 // 4,
        num_hidden_layers=num_layers,
        num_attention_heads=hidden_size // 64,
        num_key_value_heads=max(1, hidden_size // 128),
        vocab_size=vocab_size,
        max_position_embeddings=MAX_CONTEXT,
        tie_word_embeddings=False,
        # No end of sequence: every request runs to its last token.
        eos_token_id=None,
        bos_token_id=None,
        pad_token_id=None,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config).eval()


def save(model: LlamaForCausalLM, path: Path) -> Path:
    model.save_pretrained(path)
    return path


def mixed_requests(count: int, shortest: int, longest: int, new_tokens: int, vocab_size: int) -> list[Request]:
    """Prompts of random tokens with lengths spread evenly over [shortest, longest], in random order; greedy."""
    generator = random.Random(0)
    spread = max(count - 1, 1)
    lengths = [shortest + (longest - shortest) * index // spread for index in range(count)]
    generator.shuffle(lengths)
    sampling = Sampling(max_tokens=new_tokens, temperature=0.0, ignore_eos=True)
    return [
        Request(f"r{index}", tuple(generator.randrange(vocab_size) for _ in range(length)), sampling)
        for index, length in enumerate(lengths)
    ]


def even_split(num_layers: int, num_stages: int) -> list[tuple[int, int]]:
    """Layer ranges as even as possible."""
    ends = [num_layers * stage // num_stages for stage in range(num_stages + 1)]
    return list(pairwise(ends))
