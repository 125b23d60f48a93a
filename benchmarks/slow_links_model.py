"""What `slow_links`, `layouts` and `churn` train: a Llama of one layer for each stage, and texts a byte a token."""

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig

DEVICE = "wan0"
HIDDEN, LENGTH, MICROBATCHES = 256, 128, 8
"""Microbatches are of one text, and of each pipeline."""
VOCABULARY = 258


def model_config(layers: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=704,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=LENGTH,
        tie_word_embeddings=False,
        bos_token_id=256,
        eos_token_id=257,
        architectures=["LlamaForCausalLM"],
    )


def write_tokenizer(folder: Path) -> None:
    """Every byte is a token, so that both ends of a pipeline are as small as its middle."""
    vocabulary = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocabulary |= {"<s>": 256, "</s>": 257}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"bos_token": "<s>", "eos_token": "</s>"}')
