"""Files become documents: patterns, broken lines, ends of texts, and long texts in pieces."""

import json
from pathlib import Path
from typing import cast

import pytest

from muster.errors import InvalidRequest
from muster.spec.training import DataTable
from muster.text.tokenizer import Tokenizer
from muster.train.documents import PIECE_CHARACTERS, Documents, find_files, pieces, read_documents


class Letters:
    """One token for each character."""

    start_id = 1

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [ord(letter) for letter in text]


def read(folder: Path, *patterns: str, end_id: int | None = 2, broken: str = "stop") -> Documents:
    data = DataTable.model_validate({"files": patterns, "broken_lines": broken})
    files = find_files(patterns, folder)
    return read_documents(files, data, cast(Tokenizer, Letters()), end_id, lambda words: None)


def test_a_text_file_is_one_document_and_a_json_line_another(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("ab")
    (tmp_path / "b.jsonl").write_text('{"text": "c"}\n\n{"text": "d", "more": 1}\n')
    found = read(tmp_path, "*.txt", "*.jsonl")
    assert found.ids.tolist() == [1, 97, 98, 2, 1, 99, 2, 1, 100, 2]
    assert (found.count, found.nbytes, found.skipped_lines) == (3, 4, 0)


def test_a_model_with_one_token_for_both_ends_has_it_once_between_documents(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    assert read(tmp_path, "a.jsonl", end_id=1).ids.tolist() == [1, 97, 1, 98]


@pytest.mark.parametrize("line", ["not json", "[1]", '{"words": "a"}', '{"text": 3}', "[" * 100_000])
def test_a_broken_line_stops_by_its_number_or_is_counted(line: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(f"{json.dumps({'text': 'a'})}\n{line}\n")
    with pytest.raises(InvalidRequest, match=r"Line 2 of .*a\.jsonl"):
        read(tmp_path, "a.jsonl")
    found = read(tmp_path, "a.jsonl", broken="skip")
    assert (found.count, found.skipped_lines) == (1, 1)


def test_a_pattern_without_files_and_a_file_without_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"No file is called \*.md"):
        read(tmp_path, "*.md")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidRequest, match="no UTF-8 text"):
        read(tmp_path, "a.txt")


def test_a_name_with_brackets_is_that_file_and_patterns_keep_their_order(tmp_path: Path) -> None:
    for name in ("b[1].txt", "b1.txt", "a.txt"):
        (tmp_path / name).write_text("x")
    found = find_files([str(tmp_path / "b[1].txt"), "*.txt"], tmp_path)
    assert [file.name for file in found] == ["b[1].txt", "a.txt", "b1.txt"]


@pytest.mark.parametrize("text", ["", "a\n" * PIECE_CHARACTERS, "a" * (2 * PIECE_CHARACTERS + 3), "a\nb"])
def test_pieces_make_up_the_text_and_none_is_long(text: str) -> None:
    made = list(pieces(text))
    assert "".join(made) == text
    assert all(0 < len(piece) <= PIECE_CHARACTERS for piece in made)
