"""`muster keys`: made, shown once, listed without the secret, revoked."""

import json
from pathlib import Path

import pytest

from muster.broker.storage.store import Store
from muster.cli.main import run_command
from muster.head.data_directory import database_url


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MUSTER_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("MUSTER_DATABASE", raising=False)
    return tmp_path


def is_good(place: Path, secret: str) -> bool:
    store = Store(database_url(place))
    try:
        return store.verify(secret) is not None
    finally:
        store.close()


def test_a_key_is_shown_once_works_and_can_be_revoked(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["keys", "add", "alice", "--requests-per-minute", "60", "--token-limit", "1000"]) == 0
    secret = capsys.readouterr().out.strip()
    assert is_good(place, secret)

    assert run_command(["keys", "list"]) == 0
    listed = capsys.readouterr().out
    assert "alice" in listed
    assert "0 of 1000" in listed
    assert secret not in listed
    assert secret.encode() not in (place / "muster.db").read_bytes()

    assert run_command(["keys", "revoke", "alice"]) == 0
    assert "alice" in capsys.readouterr().out
    assert not is_good(place, secret)


def test_every_keys_verb_speaks_json(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["keys", "add", "bob", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert is_good(place, made["key"])
    assert run_command(["keys", "revoke", made["id"], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["revoked"] is True
    assert run_command(["keys", "list", "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)["keys"]
    assert (listed["name"], listed["revoked"], "key" in listed) == ("bob", True, False)


def test_an_unknown_key_or_a_limit_of_nothing_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["keys", "revoke", "nobody"]) == 2
    assert "muster keys list" in capsys.readouterr().err
    assert run_command(["keys", "add", "carol", "--tokens-per-minute", "0"]) == 2


def test_a_database_that_cannot_be_opened_is_named(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MUSTER_DATABASE", f"sqlite:///{place}/no/such/folder/muster.db")
    assert run_command(["keys", "list"]) == 8
    assert "database cannot be used" in capsys.readouterr().err
