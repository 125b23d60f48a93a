"""Ids, bytes and files of tokenizers."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from muster.errors import WeightsInvalid
from muster.text.tokenizer import Tokenizer, load_tokenizer

relaxed = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


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


def test_end_of_text_ids_come_from_the_generation_config_first(byte_level_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(byte_level_folder, folder)
    assert load_tokenizer(folder).end_of_text_ids == (0,)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "eos_token_id": 7}))
    assert load_tokenizer(folder).end_of_text_ids == (7,)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 9]}))
    assert load_tokenizer(folder / "tokenizer.json").end_of_text_ids == (7, 9)


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
