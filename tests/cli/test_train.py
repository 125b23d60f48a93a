"""`muster train` from a file to a model: forecast, metrics, stopping and going on, and what is refused beforehand."""

import json
from collections.abc import Iterator
from copy import copy
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig

from muster.cli.main import run_command
from muster.model.source import EMBEDDED
from muster.spec.pool import Device
from muster.text.tokenizer import Tokenizer, load_tokenizer
from muster.train.run import Running

RUN = """
model = "config.json"
tokenizer = "tiny"
out = "out"
steps = 4
evaluate_every = 2
checkpoint_every = 0

[data]
files = ["*.txt"]
held_out = ["held.txt"]

[batch]
sequences = 2
length = 16

[optimizer]
learning_rate = 1e-2
"""


@pytest.fixture(scope="module")
def tokenizer() -> Iterator[Tokenizer]:
    """Starting one takes longer than all else here."""
    loaded = load_tokenizer(EMBEDDED["tiny"])
    yield loaded
    loaded.close()


@pytest.fixture
def folder(tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> Path:
    shared = copy(tokenizer)
    monkeypatch.setattr(shared, "close", lambda: None)
    monkeypatch.setattr("muster.train.run.load_tokenizer", lambda path: shared)
    device = Device("cpu", "a test", 2**30, {"float32": 1e10}, 1e10)
    monkeypatch.setattr("muster.cli.train_forecast.measure_device", lambda *_: device)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2}
    config = LlamaConfig(vocab_size=4096, num_key_value_heads=1, max_position_embeddings=64, **sizes)
    (tmp_path / "config.json").write_text(config.to_json_string())
    (tmp_path / "run.toml").write_text(RUN)
    (tmp_path / "a.txt").write_text("def f(x):\n    return x + 1\n" * 30)
    (tmp_path / "held.txt").write_text("def g(x):\n    return x + 2\n" * 10)
    return tmp_path


def events(folder: Path, capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> list[dict[str, Any]]:
    capsys.readouterr()
    ended = run_command(["train", str(folder / "run.toml"), "--json", *words])
    told = capsys.readouterr()
    assert ended == code, told.out + told.err
    return [json.loads(line) for line in told.out.splitlines()]


def test_a_run_that_is_stopped_goes_on_and_ends_as_it_would_have(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = events(folder, capsys)
    losses = [event["loss"] for event in whole if event["event"] == "step"]
    assert len(losses) == 4
    assert whole[0]["forecast_step_s"] > 0
    assert whole[-1]["event"] == "done"
    assert whole[-1]["tokens_per_s"] > 0
    assert {event["step"] for event in whole if event["event"] == "evaluation"} == {2, 4}
    (folder / "run.toml").write_text(RUN.replace('"out"', '"again"'))
    step = Running.step

    def stopped(self: Running) -> Any:
        report = step(self)
        if report.step == 2:
            raise_interrupt()
        return report

    monkeypatch.setattr(Running, "step", stopped)
    before = events(folder, capsys, code=130)
    assert [event["event"] for event in before][-2:] == ["checkpoint", "stopped"]
    monkeypatch.setattr(Running, "step", step)
    after = events(folder, capsys, "--stages", "2")
    assert any(event["event"] == "resumed" and event["step"] == 2 for event in after)
    both = [event["loss"] for event in (*before, *after) if event["event"] == "step"]
    assert both == pytest.approx(losses, rel=1e-5)
    lines = [json.loads(line) for line in (folder / "again/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    assert (folder / "again/model.safetensors").is_file()
    assert (folder / "again/tokenizer.json").is_file()
    assert "held-out texts" in (folder / "again/loss.svg").read_text()


def raise_interrupt() -> None:
    import signal

    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("length = 16", "length = 65", "longer than the 64"),
        ("steps = 4", "steps = 4\nepochs = 2", "unknown key 'epochs'"),
        ("steps = 4", "stepz = 4", "unknown key 'stepz'"),
        ("sequences = 2", "sequences = 3\nmicrobatch = 2", "no multiple of microbatch"),
        ("sequences = 2", "sequences = 99999999", "more than the data has"),
        ('"*.txt"', '"*.md"', "No file is called"),
        ("steps = 4", "steps = 4\nstages = 3", "2 layers cannot be cut into 3 stages"),
        ('"config.json"', '"nowhere.json"', "cannot be read"),
        ("[optimizer]", "[lora]\n[optimizer]", "Adapters on random weights"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(
    old: str, new: str, named: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "run.toml").write_text(RUN.replace(old, new))
    (told,) = events(folder, capsys, code=2)
    assert named in told["error"]["message"]
    assert not (folder / "out").exists()


def test_too_little_memory_is_told_before_anything_starts(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("muster.cli.train_forecast.free_memory_bytes", lambda device: 1000)
    (told,) = events(folder, capsys, code=5)
    assert "needs about" in told["error"]["message"]
    assert not (folder / "out").exists()


def test_tuning_needs_no_file_and_leaves_an_adapter_and_a_model(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("peft")
    monkeypatch.chdir(folder)
    words = ["tune", "tiny", "a.txt", "--steps", "2", "--sequences", "1", "--length", "16", "--rank", "2", "--json"]
    assert run_command(words) == 0, capsys.readouterr()
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["step"] == 2
    assert (folder / "tuned/adapter/adapter_model.safetensors").is_file()
    assert (folder / "tuned/model.safetensors").is_file()
