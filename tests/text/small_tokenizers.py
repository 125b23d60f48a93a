"""Small tokenizers of the three kinds that matter, trained on the spot, and variants of them."""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from muster.text.calls import Description, Vocabulary
from muster.text.tokenizer import Tokenizer

CORPUS = ["def main():\n    return 'naïve café — 你好 🎉'\n", "the quick brown fox jumps over the lazy dog " * 3] * 8


def save(tokenizer: RustTokenizer, folder: Path, **config: object) -> Path:
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>", **config})
    )
    return folder


class Converted:
    """A folder's tokenizer as `load_tokenizer` reads it. Variants need no second reading, which takes a second."""

    def __init__(self, folder: Path, file: BinaryIO, vocabulary: Vocabulary) -> None:
        self.folder, self.vocabulary = folder, vocabulary
        size = os.fstat(file.fileno()).st_size
        self.description = msgspec.msgpack.decode(os.pread(file.fileno(), size, 0), type=Description)
        file.close()

    def tokenizer(self, **changes: Any) -> Tokenizer:
        """With other fields of the `Description`; `chat_template` stands for the usual one alone."""
        if "chat_template" in changes:
            changes["chat_templates"] = {"default": changes.pop("chat_template")}
        description = msgspec.structs.replace(self.description, **changes)
        vocabulary = msgspec.structs.replace(self.vocabulary, has_template=bool(description.chat_templates))
        file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the tokenizer
        file.write(msgspec.msgpack.encode(description))
        file.flush()
        return Tokenizer(self.folder, file, vocabulary)

    def described(self, change: Callable[[dict[str, Any]], object]) -> bytes:
        """The tokenizer.json after `change`."""
        entries = json.loads(self.description.tokenizer_json)
        change(entries)
        return json.dumps(entries).encode()


def train_byte_level() -> RustTokenizer:
    tokenizer = RustTokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens(["<think> ", "né"])  # not special, and not spelled in the byte alphabet
    return tokenizer


def train_sentence_piece() -> RustTokenizer:
    """As Llama 2: a space is ▁, unknown characters fall back to <0xNN>, the first space is stripped on decoding."""
    trainer = trainers.BpeTrainer(
        vocab_size=460,
        special_tokens=["<|endoftext|>", *(f"<0x{byte:02X}>" for byte in range(256))],
        limit_alphabet=60,
        show_progress=False,
    )
    trained = RustTokenizer(models.BPE())
    trained.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trained.train_from_iterator(CORPUS[1:2], trainer)
    described = json.loads(trained.to_str())
    described["model"] |= {"byte_fallback": True, "unk_token": "<|endoftext|>", "fuse_unk": True}
    for token in described["added_tokens"][1:]:
        token["special"] = False
    described["added_tokens"] = described["added_tokens"][:1]
    tokenizer = RustTokenizer.from_str(json.dumps(described))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def train_word_piece() -> RustTokenizer:
    tokenizer = RustTokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=["<|endoftext|>", "[UNK]"], show_progress=False)
    tokenizer.train_from_iterator(CORPUS[1:2], trainer)
    return tokenizer
