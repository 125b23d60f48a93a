"""Small models on disk, complete with a tokenizer, for pools that must split them. Random, and always the same."""

from pathlib import Path

from transformers import LlamaConfig, PreTrainedModel

from muster.model.conformance import random_model
from tests.text.small_tokenizers import save, train_byte_level

MAX_CONTEXT = 512


def llama(num_layers: int = 8, hidden_size: int = 64) -> PreTrainedModel:
    """Says something else after every token, which the usual initialisation would not."""
    config = LlamaConfig(
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=train_byte_level().get_vocab_size(),
        max_position_embeddings=MAX_CONTEXT,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=0,
    )
    return random_model(config)


def save_small(folder: Path, model: PreTrainedModel) -> Path:
    """A model directory as people download them."""
    save(train_byte_level(), folder)
    model.save_pretrained(folder)
    return folder
