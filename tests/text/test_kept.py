"""What was converted once is not converted again, unless a file or a version changed, or what is kept is damaged."""

import json
import shutil
from pathlib import Path

import pytest

from muster.disk import cache_directory
from muster.text import tokenizer
from muster.text.tokenizer import load_tokenizer
from tests.text.converted_here import convert_here


@pytest.fixture
def folder(byte_level_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MUSTER_CACHE", str(tmp_path / "cache"))
    return Path(shutil.copytree(byte_level_folder, tmp_path / "model"))


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Directories that were really converted."""
    made: list[Path] = []

    def counted(directory: Path) -> object:
        made.append(directory)
        return convert_here(directory)

    monkeypatch.setattr(tokenizer, "convert", counted)
    return made


def ids(folder: Path) -> list[int]:
    loaded = load_tokenizer(folder)
    try:
        return loaded.encode("def main(): pass")
    finally:
        loaded.close()


def test_a_tokenizer_is_converted_once(folder: Path, conversions: list[Path]) -> None:
    assert ids(folder) == ids(folder)
    assert len(conversions) == 1


def test_any_change_of_a_file_and_any_damage_converts_again(folder: Path, conversions: list[Path]) -> None:
    expected = ids(folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 3}))
    changed = load_tokenizer(folder)
    assert 3 in changed.end_of_text_ids
    changed.close()
    assert len(conversions) == 2
    for file in (cache_directory() / "tokenizers").iterdir():
        file.write_bytes(file.read_bytes()[:-1])
    assert ids(folder) == expected
    assert len(conversions) == 3


def test_where_nothing_can_be_kept_it_is_converted_each_time(
    folder: Path, conversions: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("MUSTER_CACHE", str(tmp_path / "a file"))
    assert ids(folder) == ids(folder)
    assert len(conversions) == 2
