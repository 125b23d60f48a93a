"""What a wrong word on the command line gets: one sentence with the remedy, and an exit code."""

import socket
from pathlib import Path

import pytest

from muster.cli.main import run_command


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSTER_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("MUSTER_DATABASE", raising=False)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["serve", "no-such-model"], 2, "There is no model 'no-such-model'"),
        (["serve", "./no/such/folder"], 2, "There is no model"),
        (["serve", "tiny", "--host", "0.0.0.0"], 2, "muster keys add"),
        (["serve", "tiny", "--max-context", "9999"], 2, "takes 1 to 1024 tokens"),
        (["serve", "tiny", "--dtype", "float3"], 7, "choose one of float32"),
        (["serve", "tiny", "--scenario", "moon"], 2, "There is no scenario 'moon'"),
        (["serve", "tiny", "--port", "70000"], 8, "from 1 to 65535"),
        (["join", "hello"], 3, "not a Muster ticket"),
        (["join", "muster1abc"], 3, "mangled"),
        (["run", "tiny", "x", "--max-tokens", "5000"], 2, "the model takes 1024"),
        (["run", "tiny", "x", "--top-p", "3"], 2, "top_p is 3.0 but must lie in"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_it_is_one_sentence_and_an_exit_code(
    words: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(words) == code
    said = capsys.readouterr().err
    assert says in said
    # Before it may stand what it waits for, or where it runs.
    assert [line.startswith("muster: ") for line in said.splitlines()].count(True) == 1
    assert said.splitlines()[-1].startswith("muster: ")
    assert "Traceback" not in said


def test_a_taken_port_is_named_and_the_head_leaves_nothing_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        assert run_command(["serve", "tiny", "--no-local-worker", "--port", str(port)]) == 8
    assert f"Port {port} on 127.0.0.1 is taken" in capsys.readouterr().err
    assert not (tmp_path / "head.json").exists()


def test_without_a_head_one_completion_is_made_in_this_process(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "tiny", "def add(a, b):", "--max-tokens", "12"]
    assert run_command(words) == 0
    first = capsys.readouterr().out
    assert first.strip()
    assert run_command(words) == 0
    assert capsys.readouterr().out == first
