"""Small tokenizers, one folder per session."""

from pathlib import Path

import pytest

from muster.text.tokenizer import Tokenizer, convert, load_tokenizer
from tests.text.converted_here import converting_here
from tests.text.small_tokenizers import Converted, save, train_byte_level, train_sentence_piece, train_word_piece


@pytest.fixture(scope="session")
def byte_level_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(train_byte_level(), tmp_path_factory.mktemp("tokenizers") / "byte_level")


@pytest.fixture(scope="session")
def converted(byte_level_folder: Path) -> Converted:
    return Converted(byte_level_folder, *convert(byte_level_folder))


@pytest.fixture(scope="session")
def byte_level(converted: Converted) -> Tokenizer:
    return converted.tokenizer()


@pytest.fixture(scope="session")
def sentence_piece(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    with converting_here():
        return load_tokenizer(save(train_sentence_piece(), tmp_path_factory.mktemp("tokenizers") / "sentence_piece"))


@pytest.fixture(scope="session")
def word_piece(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    with converting_here():
        return load_tokenizer(save(train_word_piece(), tmp_path_factory.mktemp("tokenizers") / "word_piece"))
