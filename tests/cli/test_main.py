"""How a command line ends: exit codes, one sentence, no traceback."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from muster.cli import status
from muster.cli.main import run_command, verbs
from muster.errors import MusterError, PoolUnavailable, TicketInvalid


def test_every_verb_is_there() -> None:
    assert verbs() == [
        "audit",
        "calibrate",
        "chat",
        "demo",
        "doctor",
        "join",
        "keys",
        "lab",
        "nodes",
        "plan",
        "private",
        "receipts",
        "run",
        "serve",
        "simulate",
        "status",
        "train",
        "tune",
        "verify",
        "zk",
    ]


def test_no_words_print_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    run_command([])
    assert "Gather mismatched" in capsys.readouterr().out


def test_help_is_quick_because_nothing_heavy_is_imported() -> None:
    code = "import sys; from muster.cli.main import run_command; run_command(['--help']); " + (
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'fastapi', 'iroh', 'numpy')))"
    )
    started = time.perf_counter()
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, "something heavy was imported\n" + ended.stderr
    assert time.perf_counter() - started < 10  # generous: a busy machine; the imports are what the test is about


def test_verbs_that_compute_no_tensors_import_nothing_that_does(tmp_path: Path) -> None:
    """One after the other in a fresh process; whoever imports something heavy is named."""
    pool = ["--pool", "deserve-8xl4"]
    folder = ["--data-dir", str(tmp_path)]
    commands = [["--help"], ["serve", "--help"], ["join", "muster1nonsense"], ["status", *folder]]
    commands += [["nodes", "list", *folder], ["keys", "list", *folder], ["plan", "tiny", *pool]]
    commands += [["plan", "gpt2-xl", *pool, "--objective", "train", "--sequences", "2"]]
    commands += [["simulate", "tiny", *pool, "--requests", "2"]]
    commands += [["train", "nowhere.toml"], ["tune", "tiny", "nowhere.txt"]]
    code = f"""
import sys
from muster.cli.main import run_command
for words in {commands!r}:
    run_command(words)
    heavy = {{"torch", "transformers", "scipy", "matplotlib", "networkx", "fastapi", "iroh"}} & set(sys.modules)
    if heavy:
        sys.exit(f"{{words}} imported {{heavy}}")
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.chaos  # it loads torch in a process of its own; what memory a worker takes is looked at by default
def test_a_worker_imports_no_scipy_with_transformers() -> None:
    code = "import sys; from muster.node.process import import_worker; import_worker(); import scipy; " + (
        "sys.exit(any(name in sys.modules for name in ('scipy.optimize', 'scipy.linalg')))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


@pytest.mark.parametrize("words", [["nonsense"], ["serve"], ["join"], ["run", "tiny"], ["run", "tiny", "x", "--top-k"]])
def test_wrong_usage_exits_with_two(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(words) == 2
    said = capsys.readouterr().err
    assert (said.startswith("muster: "), said.count("\n")) == (True, 1)
    assert "--help`" in said, "the remedy"
    assert run_command([*words, "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "invalid_request"


@pytest.mark.parametrize("error", [PoolUnavailable("Nobody is here; wait."), TicketInvalid("Expired; ask again.")])
def test_an_error_is_one_sentence_and_its_exit_code(
    error: MusterError, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(status, "find_head", fail)
    assert run_command(["status"]) == error.exit_code
    assert capsys.readouterr().err.strip() == f"muster: {error}"
    assert run_command(["status", "--json"]) == error.exit_code
    assert json.loads(capsys.readouterr().out) == {"error": {"code": error.code, "message": str(error)}}


def test_a_size_that_is_none_ends_join_before_anything_starts(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["join", "muster1abc", "--memory", "plenty"]) == 2
    assert "'plenty' is not a size" in capsys.readouterr().err
