"""Ids, bytes and files of tokenizers."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from muster.errors import ContextTooLong, WeightsInvalid
from muster.text.tokenizer import Tokenizer, load_tokenizer
from tests.examples import examples
from tests.text.small_tokenizers import Converted

relaxed = examples(150, suppress_health_check=[HealthCheck.function_scoped_fixture])


@relaxed
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_any_text_survives_a_byte_level_round_trip(byte_level: Tokenizer, text: str) -> None:
    # The end-of-text token and the added tokens are found inside plain text too; they are not the matter here.
    ids = byte_level.encode(text)
    if not any(special in text for special in ("<|endoftext|>",)):
        assert byte_level.decode(ids) == text


@relaxed
@given(ids=st.lists(st.integers(0, 401), max_size=30))
def test_bytes_of_any_ids_decode_as_the_library_decodes_them(byte_level: Tokenizer, ids: list[int]) -> None:
    assert byte_level.decode(ids) == byte_level.hugging_face.decode(ids, skip_special_tokens=True)


@relaxed
@given(text=st.text(st.sampled_from("the quick brown fox é你🎉"), min_size=1, max_size=30))
def test_sentence_piece_output_continues_what_came_before(sentence_piece: Tokenizer, text: str) -> None:
    before = sentence_piece.encode("dog")
    after = sentence_piece.encode("dog" + text)[len(before) :]
    if sentence_piece.encode("dog" + text)[: len(before)] == before:
        assert sentence_piece.decode(after) == text


def test_sentence_piece_keeps_the_space_of_a_first_token(sentence_piece: Tokenizer) -> None:
    ids = sentence_piece.encode("the quick")
    assert sentence_piece.decode(ids) == " the quick"
    assert sentence_piece.hugging_face.decode(ids) == "the quick"


def test_byte_fallback_tokens_are_single_bytes(sentence_piece: Tokenizer) -> None:
    ids = sentence_piece.encode("🎉")
    assert b"".join(sentence_piece.token_bytes(id) for id in ids) == " 🎉".encode()
    assert len(ids) == 5


def test_word_pieces_join_as_the_library_joins_them(word_piece: Tokenizer) -> None:
    ids = word_piece.encode("the quick brown foxe jumps")
    assert word_piece.hugging_face.unk_token_id not in ids
    assert word_piece.decode(ids).strip() == word_piece.hugging_face.decode(ids)


def test_special_and_unknown_ids_add_nothing(byte_level: Tokenizer) -> None:
    assert byte_level.token_bytes(0) == b""
    assert byte_level.token_bytes(-1) == b""
    assert byte_level.token_bytes(10**9) == b""


def test_a_token_shows_as_text_as_its_name_or_as_bytes(byte_level: Tokenizer) -> None:
    assert byte_level.display(byte_level.encode("x")[0]) == ("x", [120])
    assert byte_level.display(0) == ("<|endoftext|>", list(b"<|endoftext|>"))
    assert byte_level.display(byte_level.encode("🦀")[0])[0].startswith("bytes:\\xf0")


HOLES = {"just behind the end": 1, "far behind it": 5_000}


@pytest.mark.parametrize("hole", HOLES)
def test_a_hole_in_the_vocabulary_takes_no_text_away(converted: Converted, tmp_path: Path, hole: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(converted.folder, folder)

    def move_the_last(entries: dict[str, Any]) -> None:
        vocabulary = entries["model"]["vocab"]
        vocabulary[max(vocabulary, key=vocabulary.__getitem__)] += HOLES[hole] + len(entries["added_tokens"])
        for i, token in enumerate(entries["added_tokens"][1:]):
            token["id"] = 400 + HOLES[hole] * (i + 2)

    (folder / "tokenizer.json").write_bytes(converted.described(move_the_last))
    tokenizer = load_tokenizer(folder)
    entries = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    assert tokenizer.vocabulary_size > len(entries) + HOLES[hole]
    for entry, id in entries.items():
        assert tokenizer.token_bytes(id) == tokenizer.hugging_face.decode([id], skip_special_tokens=True).encode() or (
            "\ufffd" in tokenizer.hugging_face.decode([id]) and len(entry) == len(tokenizer.token_bytes(id))
        )
    for text in ("né", "<think> "):
        assert tokenizer.decode(tokenizer.encode(text)) == tokenizer.hugging_face.decode(tokenizer.encode(text))
    assert tokenizer.token_bytes(tokenizer.vocabulary_size) == b""


def test_settings_for_training_change_no_prompt(converted: Converted) -> None:
    left_over = {
        "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        "padding": {
            "strategy": {"Fixed": 64},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "<|endoftext|>",
        },
    }

    def leave_over(entries: dict[str, Any]) -> None:
        entries.update(left_over)
        entries["model"]["dropout"] = 0.9

    text = "the quick brown fox jumps over the lazy dog"
    plain, saved = converted.tokenizer(), converted.tokenizer(tokenizer_json=converted.described(leave_over))
    assert saved.encode(text) == plain.encode(text)
    assert saved.encode("x") == plain.encode("x")


def test_a_prompt_that_a_template_made_has_one_begin_of_text_token(converted: Converted) -> None:
    begin = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
    single = [begin, {"Sequence": {"id": "A", "type_id": 0}}]
    special = {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}}
    post = {"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": special}
    described = converted.described(lambda entries: entries.update(post_processor=post))
    tokenizer = converted.tokenizer(tokenizer_json=described, begin_id=0)
    x = tokenizer.encode("x", add_special_tokens=False)
    assert tokenizer.encode("x") == [0, *x]
    assert tokenizer.encode("<|endoftext|>x") == [0, *x]
    assert tokenizer.encode("<|endoftext|>x", add_special_tokens=False) == [0, *x]
    assert tokenizer.encode("<|endoftext|><|endoftext|>x") == [0, 0, *x]
    assert tokenizer.encode("") == [0]
    assert converted.tokenizer(begin_id=0).encode("<|endoftext|><|endoftext|>x") == [0, 0, *x]


@pytest.mark.parametrize("characters", [200, 20_000, 400_000])
def test_a_text_that_cannot_fit_is_not_read_to_its_end(byte_level: Tokenizer, characters: int) -> None:
    text = ("the quick brown fox jumps over the lazy dog " * (characters // 40))[:characters]
    whole = byte_level.encode(text)
    assert byte_level.encoding(text, at_most=len(whole)).result() == whole
    if characters > 16 * 100:
        with pytest.raises(ContextTooLong, match="more than 100 tokens"):
            byte_level.encoding(text, at_most=100).result()


def test_special_tokens_are_known_by_name_and_added_words_are_text(byte_level: Tokenizer) -> None:
    assert byte_level.named("<|endoftext|>") == 0
    assert byte_level.named("<think> ") is None
    assert byte_level.named("nonsense") is None
    assert byte_level.decode(byte_level.encode("<think> x<|endoftext|>")) == "<think> x"


def test_a_missing_tokenizer_is_named_with_its_remedy(tmp_path: Path) -> None:
    with pytest.raises(WeightsInvalid, match=r"No tokenizer in .*copy the model's tokenizer\.json there"):
        load_tokenizer(tmp_path)
    with pytest.raises(WeightsInvalid, match="No tokenizer"):
        load_tokenizer(tmp_path / "nowhere")


def test_a_mangled_tokenizer_is_named_with_its_remedy(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{ this is not json")
    with pytest.raises(WeightsInvalid, match="cannot be read"):
        load_tokenizer(tmp_path)


def test_code_that_comes_with_a_tokenizer_is_never_run(byte_level_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(byte_level_folder, folder)
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}, "tokenizer_class": "Evil"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    try:
        load_tokenizer(folder)
    except WeightsInvalid as refused:
        assert "cannot be read" in str(refused)  # noqa: PT017 - both outcomes are right, running the code is not
    assert not (tmp_path / "ran").exists()
