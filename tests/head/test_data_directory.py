"""The files by which verbs on one machine find each other."""

import stat
from pathlib import Path

import pytest

from muster.errors import MachineTrouble
from muster.head.data_directory import (
    HeadRecord,
    admin_token,
    data_dir,
    database_url,
    forget_head,
    read_head,
    write_head,
)

RECORD = HeadRecord(url="http://127.0.0.1:8123", model="tiny", ticket="muster1abc", pid=1)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_admin_token_is_made_once_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    token = admin_token(tmp_path)
    assert len(token) >= 32
    assert admin_token(tmp_path) == token
    assert mode(tmp_path / "admin.token") == 0o600


def test_a_running_head_can_be_found_and_is_forgotten_when_it_ends(tmp_path: Path) -> None:
    assert read_head(tmp_path) is None
    write_head(tmp_path, RECORD)
    assert read_head(tmp_path) == RECORD
    assert mode(tmp_path / "head.json") == 0o600
    forget_head(tmp_path)
    assert read_head(tmp_path) is None


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"url": 1}', '{"url": "a", "surprise": 1}'])
def test_a_damaged_record_counts_as_no_head(tmp_path: Path, text: str) -> None:
    (tmp_path / "head.json").write_text(text)
    assert read_head(tmp_path) is None


def test_the_data_directory_follows_option_then_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSTER_DATA_DIR", str(tmp_path / "environment"))
    assert data_dir(tmp_path / "option") == tmp_path / "option"
    assert data_dir() == tmp_path / "environment"
    monkeypatch.delenv("MUSTER_DATA_DIR")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    assert data_dir() == tmp_path / "xdg/muster"
    assert mode(data_dir()) == 0o700


def test_a_place_where_strangers_may_write_is_refused(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    with pytest.raises(MachineTrouble, match="chmod 700"):
        data_dir(shared)


def test_a_token_that_others_may_know_is_no_token(tmp_path: Path) -> None:
    (tmp_path / "admin.token").write_text("known to all")
    (tmp_path / "admin.token").chmod(0o644)
    with pytest.raises(MachineTrouble, match="delete it"):
        admin_token(tmp_path)


def test_a_ticket_is_not_written_to_where_others_look(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("")
    elsewhere.chmod(0o644)
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "head.json").symlink_to(elsewhere)
    write_head(folder, RECORD)
    assert elsewhere.read_text() == ""
    assert mode(folder / "head.json") == 0o600
    assert [path.name for path in folder.iterdir()] == ["head.json"]


def test_a_place_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineTrouble, match="--data-dir"):
        data_dir(tmp_path / "file/inside")


def test_a_database_elsewhere_is_taken_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MUSTER_DATABASE", raising=False)
    assert database_url(tmp_path) == f"sqlite:///{tmp_path}/muster.db"
    monkeypatch.setenv("MUSTER_DATABASE", "postgresql+psycopg://db/muster")
    assert database_url(tmp_path) == "postgresql+psycopg://db/muster"
