"""The rules for what an entry spells agree with what the library's decoder adds after a known text."""

import pytest
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import decoders

from muster.text.sandbox.pieces import _after_known_text, speller
from tests.text.small_tokenizers import train_sentence_piece

DECODERS = {
    "as Llama 2": decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    ),
    "as Gemma": decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]),
    "as T5": decoders.Metaspace(),
    "with a rule of its own": decoders.Sequence([decoders.Replace("▁", " "), decoders.Replace("q", "Q")]),
}


@pytest.fixture(scope="module")
def rust() -> RustTokenizer:
    return train_sentence_piece()


@pytest.mark.parametrize("decoder", DECODERS)
def test_every_entry_spells_what_the_decoder_adds(rust: RustTokenizer, decoder: str) -> None:
    rust.decoder = DECODERS[decoder]
    ours, library = speller(rust), _after_known_text(rust, "Llama" in decoder or "Gemma" in decoder)
    entries = [(id, entry) for entry, id in rust.get_vocab().items() if entry != "<|endoftext|>"]
    assert len(entries) > 300
    for id, entry in entries:
        assert ours(id, entry) == library(id, entry), entry
