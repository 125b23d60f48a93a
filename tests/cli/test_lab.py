"""What `muster lab` says to people who cannot have what they ask for. A lab itself is tested in `tests/lab/wan`."""

import os
from pathlib import Path

import pytest
from rich.console import Console

from muster.cli import lab_demo
from muster.cli.main import run_command
from muster.lab.live import Scene
from muster.lab.wan import namespaces, record


@pytest.fixture(autouse=True)
def no_labs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "FOLDER", tmp_path)


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


def test_without_root_the_remedy_is_root(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for words in (["up", "two-universities"], ["down"], ["demo"]):
        assert run_command(["lab", *words]) == 8
        assert "takes root; run it with sudo." in said(capsys)


def test_without_a_tun_device_the_remedy_is_to_load_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(namespaces, "TUN_PATH", tmp_path / "tun")
    assert run_command(["lab", "up", "two-universities"]) == 8
    assert "(No such file or directory); load it with `modprobe tun`" in said(capsys)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["up", "atlantis"], 2, "There is no scenario 'atlantis'; choose one of"),
        (["up", "atlantis.toml"], 2, "cannot be read; check its path"),
        (["up", "two-universities", "--host", "ada:lima"], 2, "'lima' is no region of the scenario"),
        (["up", "two-universities", "--network", "x"], 2, "'x' is no network; write one like"),
        (["up", "two-universities", "--name", "My Lab"], 2, "is no name for a lab; use at most ten small letters"),
        (["status"], 5, "No lab called lab is up; start one with `muster lab up SCENARIO`."),
        (["exec", "tokyo", "--", "true"], 5, "No lab called lab is up; start one"),
        (["fault", "leave:ada"], 5, "No lab called lab is up; start one"),
    ],
)
def test_what_cannot_be_is_said_with_a_remedy(
    words: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("muster.lab.wan.lifecycle.check_able", lambda: None)
    assert run_command(["lab", *words]) == code
    assert says in said(capsys)


def test_a_scenario_with_a_gap_names_the_pair(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "gap.toml"
    file.write_text('name = "gap"\nregions = ["a", "b"]')
    assert run_command(["lab", "up", str(file)]) == 2
    assert "says nothing of a and b; add a [[link]] between them" in said(capsys)


def test_a_row_of_rates_is_drawn_against_the_highest() -> None:
    assert lab_demo.sparkline([0.0, 4.0, 8.0]) == " ▄█"
    assert lab_demo.sparkline([]) == ""
    assert len(lab_demo.sparkline([1.0] * 500)) == lab_demo.SHOWN_SECONDS


def test_the_screen_shows_rates_links_and_events_and_reads_no_markup_in_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    scene = Scene(rates=[4.0, 8.0], tokens=12, mbit_per_s={("ada", "bob"): 1.5})
    scene.ring = [{"name": "ada", "region": "tokyo", "first": 0, "last": 3}]
    scene.told.append((3.0, "fault: [red]bob is gone"))
    Console().print(lab_demo.picture(scene))
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("8 tokens/s", "layers 0–2", "1.50 Mbit/s", "fault: [red]bob is gone"))
    screen = lab_demo.Screen(quiet=False)
    screen.watch(scene)
    screen.watch(scene)
    assert capsys.readouterr().out.count("bob is gone") == 1
