"""Logs are for stderr: programs read stdout."""

import json
from collections.abc import Iterator

import pytest
import structlog

from muster.cli.logs import configure_logs
from muster.errors import InvalidRequest


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = structlog.get_config()
    yield
    structlog.configure(**before)


def test_a_log_line_is_json_on_stderr(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MUSTER_LOG", raising=False)
    configure_logs()
    structlog.get_logger().info("node.joined", node="ada")
    structlog.get_logger().debug("too.small")
    printed = capsys.readouterr()
    assert printed.out == ""
    record = json.loads(printed.err)
    assert (record["event"], record["node"], record["level"]) == ("node.joined", "ada", "info")


def test_on_a_terminal_a_warning_is_a_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MUSTER_LOG", raising=False)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    configure_logs()
    log = structlog.get_logger()
    log.info("rejoin.failed", reason="nobody answers")
    log.warning("hub.unused", model="m", reason="it is slow; the head gives what is missing")
    log.warning("link.port_changed", taken=7, port=8, remedy="give the machines a new ticket")
    log.warning("search.broke\x1b[31m", reason="")
    assert capsys.readouterr().err.splitlines() == [
        "Hub unused: it is slow; the head gives what is missing.",
        "Link port changed: taken 7, port 8; give the machines a new ticket.",
        "Search broke[31m.",
    ]


def test_the_level_can_be_chosen(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSTER_LOG", "error")
    configure_logs()
    structlog.get_logger().warning("not.shown")
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("MUSTER_LOG", "loud")
    with pytest.raises(InvalidRequest, match="choose one of"):
        configure_logs()
