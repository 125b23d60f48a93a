"""Which tokens mark a gap is read from the names in the vocabulary, whatever kind of tokenizer has them."""

from pathlib import Path

import pytest
from tokenizers import AddedToken

from muster.text.fill_in import fill_in_of
from muster.text.tokenizer import Tokenizer, load_tokenizer
from tests.text.converted_here import converting_here
from tests.text.small_tokenizers import save, train_byte_level, train_sentence_piece

FAMILIES = {
    "qwen": ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|file_sep|>"),
    "starcoder": ("<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<fim_pad>"),
    "deepseek": ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
    "code llama": ("▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"),
    "codestral": ("[PREFIX]", "[SUFFIX]"),
}


def tokenizer_with(folder: Path, names: tuple[str, ...], special: bool, kind: str = "byte level") -> Tokenizer:
    rust = train_byte_level() if kind == "byte level" else train_sentence_piece()
    rust.add_tokens([AddedToken(name, special=special, normalized=False) for name in names])
    with converting_here():
        return load_tokenizer(save(rust, folder / "tokenizer"))


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_is_asked_in_its_own_order(tmp_path: Path, family: str, special: bool) -> None:
    names = FAMILIES[family]
    tokenizer = tokenizer_with(tmp_path, names, special, "sentence piece" if family == "code llama" else "byte level")
    gap = fill_in_of(tokenizer)
    assert gap is not None
    prompt = gap.prompt([1, 2], [3])
    marks = [tokenizer.display(id)[0].replace(" ", "▁") for id in prompt if id not in (1, 2, 3)]
    if family == "codestral":
        assert marks == ["[SUFFIX]", "[PREFIX]"]
        assert prompt.index(3) < prompt.index(1)
    else:
        assert marks == list(names[:3])
        assert prompt[1:3] == [1, 2]
        assert prompt[4] == 3
    assert len(gap.end_ids) == len(names)
    tokenizer.close()


def test_a_model_without_such_names_cannot_be_asked(tmp_path: Path) -> None:
    for number, names in enumerate([(), ("<fim_prefix>", "<fim_suffix>"), ("<PREFIX>", "<SUFFIX>", "<MIDDLE>")]):
        folder = tmp_path / str(number)
        folder.mkdir()
        tokenizer = tokenizer_with(folder, names, special=True)
        assert fill_in_of(tokenizer) is None
        tokenizer.close()
