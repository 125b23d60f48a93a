"""`muster private`: what it says before anything is opened."""

import json
from pathlib import Path

import pytest

from muster.cli.main import run_command


def test_a_plan_says_what_each_machine_reads(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["private", "plan", "ann", "bob", "eve"]) == 0
    text = capsys.readouterr().out
    assert "clusters of 16, 3 shards" in text
    assert "bob-2: reads 67 % of the tokens, up to 32 in a row" in " ".join(text.split())


def test_a_plan_as_json_has_every_figure(capsys: pytest.CaptureFixture[str]) -> None:
    run_command(["private", "plan", *"abcde", "--colluders", "2", "--json"])
    record = json.loads(capsys.readouterr().out)
    assert record["rule"] == {"cluster": 16, "comp_nodes": 10, "shards": 10}
    assert [row["smallest_gap"] for row in record["machines"]] == [17] * 5
    assert sum(row["comp_nodes"] + row["attn_nodes"] for row in record["machines"]) == 110


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (["plan", "ann", "bob"], 5, "3 owners are the fewest that can: add 1 more"),
        (["plan", "a", "a", "a"], 5, "3 machines of 1 owners"),
        (["plan", *"abcd", "--colluders", "2"], 5, "5 owners are the fewest"),
        (["plan", *"abc", "--min-gap", "1"], 2, "protects nothing"),
        (["serve", "tiny", "--machines", "missing"], 2, "missing cannot be read"),
        (["serve", "tiny", "--machines", "empty"], 2, "holds no ticket"),
        (["serve", "tiny", "--machines", "bad"], 3, "not a Muster ticket"),
        (["serve", "tiny", "--machines", "bad", "--dtype", "int3"], 7, "int3"),
    ],
)
def test_bad_input_is_one_sentence(
    words: list[str],
    code: int,
    reason: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").write_text("# nobody yet\n")
    (tmp_path / "bad").write_text("hello ann\n")
    assert run_command(["private", *words]) == code
    assert reason in " ".join(capsys.readouterr().err.split())
