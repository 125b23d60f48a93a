"""A plan that was edited, or laid on a smaller pool, is refused with one sentence; nothing of it is believed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from muster.cli.main import run_command

POOL = """
[[machine]]
name = "ada"
device = "rtx-3090"
[[machine]]
name = "bob"
device = "rtx-3090"
[elsewhere]
latency_s = 0.001
bandwidth_bytes_per_s = 1e9
"""
Lock = Callable[..., Path]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plan for serving, one for training beside it, and their pool."""
    folder = tmp_path_factory.mktemp("plans")
    (folder / "pool.toml").write_text(POOL)
    common = ["--pool", str(folder / "pool.toml"), "--lock"]
    assert run_command(["plan", "llama-2-13b", *common, str(folder / "serve.lock")]) == 0
    words = ["plan", "gpt3-xl", "--objective", "train", "--sequences", "8", "--compress"]
    assert run_command([*words, *common, str(folder / "train.lock")]) == 0
    return folder


def refused(words: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert run_command(words) == code
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert says in said.err
    assert run_command([*words, "--json"]) == code
    assert says in json.loads(capsys.readouterr().out)["error"]["message"]


def spoilt(written: Path, kind: str, spoil: Callable[[Any], object], tmp_path: Path) -> str:
    entries = json.loads((written / f"{kind}.lock").read_text())
    spoil(entries)
    (tmp_path / "spoilt.lock").write_text(json.dumps(entries))
    return str(tmp_path / "spoilt.lock")


def pipeline(entries: Any) -> Any:
    return entries["plan"]["pipelines"][0]


@pytest.mark.parametrize(
    ("spoil", "code", "says"),
    [
        (lambda e: pipeline(e)["work"].update(num_pages=10**6), 5, "more than ada lends; plan anew with `muster plan`"),
        (lambda e: pipeline(e)["stages"][1].update(first=1) or pipeline(e)["stages"][0].update(last=1), 5, "than bob"),
        (lambda e: e["model"].update(head_bytes=10**12), 5, "The plan has layers 20 to 39 on bob"),
        (lambda e: e["model"]["layer_bytes"].__setitem__(0, 10**12), 5, "on ada"),
        (lambda e: e["workload"].update(prompt_tokens=10**6), 2, "more than the 4096 that llama-2-13b takes"),
        (lambda e: e["workload"].update(requests_per_s=-1), 2, "is no rate"),
        (lambda e: e.update(objective="x"), 2, "unknown objective"),
    ],
)
def test_what_no_search_would_have_found_is_not_simulated(
    written: Path,
    spoil: Callable[[Any], object],
    code: int,
    says: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    refused(["simulate", spoilt(written, "serve", spoil, tmp_path)], code, says, capsys)


@pytest.mark.parametrize(
    ("spoil", "code", "says"),
    [
        (lambda e: e["workload"].update(length=10**5), 5, "lends; plan anew"),
        (lambda e: e["workload"].update(optimizer="magic"), 2, "no optimizer 'magic'"),
        (lambda e: pipeline(e)["codecs"].append(coded("zip")), 2, "no codec 'zip'"),
        (lambda e: pipeline(e)["codecs"].append(coded("group-8")), 2, "other figures for codec group-8"),
    ],
)
def test_a_training_plan_that_cannot_be_is_not_simulated(
    written: Path,
    spoil: Callable[[Any], object],
    code: int,
    says: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    refused(["simulate", spoilt(written, "train", spoil, tmp_path)], code, says, capsys)


def coded(name: str) -> dict[str, Any]:
    figures = {"bits_per_value": 1.0, "state_bytes_per_value": 0.0, "distortion": 0.0}
    return {"source": "ada", "target": "bob", "codec": {"name": name, **figures}}


def test_a_lock_that_no_longer_fits_is_not_kept_to(
    written: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    lock = spoilt(written, "serve", lambda e: pipeline(e)["work"].update(num_pages=10**6), tmp_path)
    words = ["plan", "llama-2-13b", "--pool", str(written / "pool.toml"), "--lock", lock]
    refused(words, 5, "more than ada lends", capsys)


def test_a_run_of_training_has_an_end(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(["simulate", str(written / "train.lock"), "--steps", "1000000000"], 2, "give fewer --steps", capsys)


def test_what_a_search_found_is_believed(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["simulate", str(written / "serve.lock"), "--requests", "10"]) == 0
    assert run_command(["simulate", str(written / "train.lock")]) == 0
    assert "simulated" in capsys.readouterr().out
