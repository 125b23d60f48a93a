"""A text with a gap: what the model is asked, and who is told that it cannot be."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import BadRequestError, OpenAI
from tokenizers import AddedToken

from muster.text.tokenizer import load_tokenizer
from tests.api.fake_backend import FakeBackend
from tests.api.served import Served
from tests.text.converted_here import converting_here
from tests.text.small_tokenizers import save, train_byte_level

NAMES = ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|file_sep|>"]


@pytest.fixture(scope="module")
def coder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    rust = train_byte_level()
    rust.add_tokens([AddedToken(name, special=False, normalized=False) for name in NAMES])
    with converting_here():
        tokenizer = load_tokenizer(save(rust, tmp_path_factory.mktemp("coder") / "tokenizer"))
    with Served(FakeBackend(tokenizer)) as served:
        yield served


@pytest.mark.parametrize("as_ids", [False, True])
def test_the_model_is_asked_for_what_stands_in_the_gap(coder: Served, as_ids: bool) -> None:
    tokenizer = coder.backend.tokenizer
    front, behind = tokenizer.encode("def main():"), tokenizer.encode("return 1")
    prompt = front if as_ids else "def main():"
    coder.client().completions.create(model="fake", prompt=prompt, suffix="return 1", max_tokens=4)
    asked = coder.backend.requests[-1]
    marks = [tokenizer.entry(name) for name in NAMES]
    assert asked.prompt == (marks[0], *front, marks[1], *behind, marks[2])
    assert set(marks) <= set(asked.sampling.stop_token_ids)


def test_an_empty_suffix_is_none(coder: Served) -> None:
    coder.client().completions.create(model="fake", prompt="x", suffix="", max_tokens=4)
    assert coder.backend.requests[-1].prompt == tuple(coder.backend.tokenizer.encode("x"))


def test_a_gap_is_not_echoed(coder: Served) -> None:
    with pytest.raises(BadRequestError, match="echo or suffix"):
        coder.client().completions.create(model="fake", prompt="x", suffix="y", echo=True)


def test_a_model_without_tokens_for_it_is_refused_by_name(client: OpenAI, tmp_path: Path) -> None:
    with pytest.raises(BadRequestError, match="'fake' has no tokens that mark a gap") as caught:
        client.completions.create(model="fake", prompt="x", suffix="y")
    assert caught.value.param == "suffix"
