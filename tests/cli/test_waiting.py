"""A wait says what it is for, unless it is over at once; checked without a clock of its own."""

import threading

import pytest

from muster.cli import waiting as module
from muster.cli.waiting import waiting


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "UNWATCHED_S", 0.0)


def said(capsys: pytest.CaptureFixture[str]) -> str:
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join(10)
    return capsys.readouterr().err


def test_a_long_wait_says_what_it_is_for_and_what_it_has_come_to(capsys: pytest.CaptureFixture[str]) -> None:
    with waiting("loading [bold]PyTorch[/bold]") as say:
        assert said(capsys) == "loading [bold]PyTorch[/bold] …\n"
        say("measuring")
        assert said(capsys) == "measuring …\n"
    assert said(capsys) == ""


def test_what_is_over_at_once_says_nothing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "UNWATCHED_S", 60.0)
    with waiting("blinking") as say:
        say("blinking twice")
    assert said(capsys) == ""


def test_programs_are_told_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with waiting("loading", as_json=True) as say:
        say("measuring")
        assert said(capsys) == ""


def test_a_wait_that_fails_leaves_no_timer_behind(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="broken"), waiting("loading"):
        raise ValueError("broken")
    said(capsys)
    assert not any(isinstance(thread, threading.Timer) for thread in threading.enumerate())
