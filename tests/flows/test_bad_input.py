"""Bad input, as a user would give it: real `muster` processes, one sentence with a remedy, the right exit code."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from safetensors.torch import load_file, save_file

from muster.cli.main import run_command
from muster.wire.ticket import Ticket, parse
from tests.flows.small_models import llama, save_small

START_S = 120.0
HELLO = {"prompt": "def main", "max_tokens": 4}


def muster(*words: str, **options: Any) -> "subprocess.Popen[str]":
    quiet = {"OMP_NUM_THREADS": "1", "MUSTER_LOG": "warning", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "muster.cli.main", *words],
        env=os.environ | quiet,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def outcome(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Exit code and what was said on stderr."""
    _, said = process.communicate(timeout=START_S)
    return process.returncode, said


def is_one_sentence(said: str) -> bool:
    """A remedy follows a semicolon or a comma; nothing of the machinery shows. Before it may stand what a slow machine
    waits for, and where the work is done."""
    *before, last = said.splitlines(keepends=True)
    harmless = all(line.endswith(" …\n") or line.startswith("No head here serves ") for line in before)
    return harmless and last.startswith("muster: ") and last.endswith(".\n") and "Traceback" not in said


class Head:
    """A head with a worker of its own, in a process of its own."""

    def __init__(self, model: Path, folder: Path) -> None:
        # The model's name is a path relative to the head's folder: nobody else finds a copy on the disk.
        shutil.copytree(model, folder / "models" / "small")
        words = ["serve", "./models/small", "--port", "0", "--data-dir", str(folder / "data"), "--memory", "1GB"]
        self.process = muster(*words, "--json", cwd=folder)
        self.name = "./models/small"
        listening = self.event("listening")
        self.url, self.ticket = listening["url"], parse(listening["ticket"], 0.0)
        self.http = httpx.Client(base_url=self.url, timeout=60)

    def event(self, name: str) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event: dict[str, Any] = json.loads(line)
            if event["event"] == name:
                return event
        raise AssertionError(f"the head ended without {name}: {outcome(self.process)}")

    def is_well(self) -> bool:
        answer = self.http.post("/v1/completions", json={"model": self.name, "temperature": 0, **HELLO})
        return answer.status_code == 200 and self.process.poll() is None

    def stop(self) -> tuple[int, str]:
        self.http.close()
        self.process.send_signal(signal.SIGINT)
        return outcome(self.process)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small(tmp_path_factory.mktemp("model") / "small", llama(num_layers=2))


@pytest.fixture(scope="module")
def head(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    head = Head(model, tmp_path_factory.mktemp("head"))
    head.event("placed")
    yield head
    code, said = head.stop()
    assert (code, said) == (0, ""), "nothing that happened to it left a trace"


@pytest.fixture(autouse=True)
def _log_as_before() -> Iterator[None]:
    """Verbs that run in this process set up logs of their own."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


# --- models -----------------------------------------------------------------------------------------------------------


def cut(model: Path, keep: int) -> None:
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])


def change_tensors(model: Path, change: Callable[[dict[str, Any]], object]) -> None:
    tensors = load_file(model / "model.safetensors")
    change(tensors)
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})


UP = "model.layers.1.mlp.up_proj.weight"
BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (lambda model: cut(model, -5000), "it ends before tensor"),
    "cut off in its header": (lambda model: cut(model, 50), "its header is cut off"),
    "empty": (lambda model: (model / "model.safetensors").write_bytes(b""), "its header is cut off"),
    "no weights": (lambda model: (model / "model.safetensors").unlink(), "holds no safetensors file"),
    "unreadable": (
        lambda model: ((model / "model.safetensors").unlink(), (model / "model.safetensors").mkdir()),
        "cannot be read (it is not an ordinary file)",
    ),
    "missing tensor": (lambda model: change_tensors(model, lambda some: some.pop(UP)), f"no tensor for {UP}"),
    "wrong shape": (
        lambda model: change_tensors(model, lambda some: some.update({UP: some[UP][:3].clone()})),
        f"{UP} has shape (3, 64) where config.json says (128, 64)",
    ),
    "no tokenizer": (lambda model: [file.unlink() for file in model.glob("token*")], "No tokenizer in"),
    "broken tokenizer": (lambda model: (model / "tokenizer.json").write_text("{"), "The tokenizer in"),
    "no configuration": (lambda model: (model / "config.json").unlink(), "config.json cannot be read"),
    "broken configuration": (lambda model: (model / "config.json").write_text("{"), "config.json is not a JSON object"),
}


# Both verbs read a model by the same functions, so one kind of each trouble is enough for the second.
@pytest.mark.parametrize(
    ("kind", "verb"),
    [*((kind, "serve") for kind in BROKEN), *((kind, "run") for kind in ("truncated", "no tokenizer", "no weights"))],
)
def test_a_broken_model_is_refused_before_anything_starts(
    kind: str,
    verb: str,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MUSTER_DATA_DIR", str(tmp_path / "data"))
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    spoil, says = BROKEN[kind]
    spoil(broken)
    words = {"serve": ["serve", str(broken), "--port", "0"], "run": ["run", str(broken), "def main"]}
    assert run_command(words[verb]) == 7
    said = capfd.readouterr().err
    assert says in said
    assert is_one_sentence(said)


# --- a head at work ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "code", "says"),
    [
        (b'{"model": ', 400, "invalid_request", "JSON"),
        (b"\xff\xfe", 400, "invalid_request", "JSON"),
        ({"model": "gpt-4", **HELLO}, 404, "model_not_found", "not 'gpt-4'"),
        ({**HELLO, "temperature": 9}, 400, "invalid_request", "must lie in [0.0, 2.0]"),
        ({**HELLO, "temperature": "hot"}, 400, "invalid_request", "temperature"),
        ({**HELLO, "top_p": 0}, 400, "invalid_request", "top_p"),
        ({**HELLO, "seed": 2**70}, 400, "invalid_request", "seed"),
        ({**HELLO, "logit_bias": {"99999": 1}}, 400, "invalid_request", "logit_bias"),
        ({**HELLO, "n": 1000}, 400, "invalid_request", "n is 1000"),
        ({"prompt": [5] * 600}, 400, "context_length_exceeded", "600 tokens"),
        ({"prompt": [10**9]}, 400, "invalid_request", "prompt"),
        ({"prompt": "x", "max_tokens": 511, "suffix": "y"}, 400, "unsupported", "suffix"),
    ],
)
def test_a_bad_request_gets_a_status_a_code_and_a_sentence(
    head: Head, body: bytes | dict[str, Any], status: int, code: str, says: str
) -> None:
    if isinstance(body, dict):
        answer = head.http.post("/v1/completions", json={"model": head.name, **body})
    else:
        answer = head.http.post("/v1/completions", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["code"] == code
    assert says in error["message"]
    assert head.is_well()


def bad_tickets(ticket: Ticket) -> dict[str, tuple[str, str]]:
    line = ticket.encode()
    return {
        "expired": (replace(ticket, expires_s=time.time() - 5).encode(), "This ticket has expired"),
        "mangled": (line[:60] + ("y" if line[60] == "x" else "x") + line[61:], "This ticket is mangled"),
        "cut off": (line[:60], "This ticket is mangled"),
        "something else": ("sk-1234", "This is not a Muster ticket"),
    }


@pytest.mark.parametrize("kind", ["expired", "mangled", "cut off", "something else"])
def test_a_bad_ticket_is_refused_on_the_spot(
    head: Head, tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    ticket, says = bad_tickets(head.ticket)[kind]
    assert run_command(["join", ticket, "--data-dir", str(tmp_path), "--memory", "1GB"]) == 3
    said = capfd.readouterr().err
    assert says in said
    assert is_one_sentence(said)


@pytest.mark.chaos
def test_a_ticket_of_another_pool_is_refused_by_the_head(head: Head, tmp_path: Path) -> None:
    foreign = replace(head.ticket, secret=b"x" * 32).encode()
    code, said = outcome(muster("join", foreign, "--data-dir", str(tmp_path), "--memory", "1GB"))
    assert code == 3
    assert "This ticket is not of this pool; ask whoever runs the pool for one" in said
    assert is_one_sentence(said)
    assert head.is_well()


def test_a_port_that_is_taken_is_named(
    head: Head, model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    port = head.url.rpartition(":")[2]
    words = ["serve", str(model), "--port", port, "--no-local-worker", "--data-dir", str(tmp_path)]
    assert run_command(words) == 8
    said = capfd.readouterr().err
    assert f"Port {port} on 127.0.0.1 is taken; choose another with --port" in said
    assert is_one_sentence(said)
    assert head.is_well()


def test_less_memory_than_the_program_itself_takes_is_refused_with_the_least_that_works(
    head: Head, tmp_path: Path
) -> None:
    code, said = outcome(muster("join", head.ticket.encode(), "--data-dir", str(tmp_path), "--memory", "1MB"))
    assert code == 2
    assert "--memory 1MB is a promise for everything" in said
    least = re.search(r"lend at least (\d+)MB", said)
    assert least is not None
    assert 300 < int(least[1]) < 700
    assert is_one_sentence(said)


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_a_disk_that_is_full_is_named(head: Head, tmp_path: Path) -> None:
    limited = f"ulimit -f 64; exec {sys.executable} -m muster.cli.main "
    words = f"join {head.ticket.encode()} --data-dir {tmp_path}/data --cache-dir {tmp_path}/cache --memory 1GB"
    process = subprocess.Popen(
        ["bash", "-c", limited + words], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    code, said = outcome(process)
    assert code == 8
    assert f"Cannot write to {tmp_path}/cache (File too large); free some space there" in said
    assert is_one_sentence(said)
    assert head.is_well()
