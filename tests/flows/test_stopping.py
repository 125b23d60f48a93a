"""Ctrl-C, as a person presses it: something is said at once, nothing is moved, and a second later it is over."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

MAX_STOP_S = 2.0
"""A second, and a second for a machine that is busy with other tests."""


class Process:
    def __init__(self, running: "subprocess.Popen[str]") -> None:
        self._running = running

    def until(self, event: str) -> dict[str, Any]:
        assert self._running.stdout is not None
        for line in self._running.stdout:
            record: dict[str, Any] = json.loads(line)
            if record["event"] == event:
                return record
        raise AssertionError(f"it ended without {event!r}")

    def stop(self) -> list[str]:
        """The events after Ctrl-C, which must come to an end in time."""
        began_s = time.monotonic()
        self._running.send_signal(signal.SIGINT)
        out, _ = self._running.communicate(timeout=60)
        took_s = time.monotonic() - began_s
        assert self._running.returncode == 0
        assert took_s < MAX_STOP_S
        return [json.loads(line)["event"] for line in out.splitlines()]


@contextmanager
def started(*words: str, log: Path | None = None) -> Iterator[Process]:
    command = [sys.executable, "-m", "muster.cli.main", *words, "--json"]
    environment = os.environ | {"MUSTER_LOG": "info" if log is not None else "error"}
    with (
        open(log or os.devnull, "w") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment) as running,
    ):
        try:
            yield Process(running)
        finally:
            running.kill()


@contextmanager
def listening_to(url: str) -> Iterator[Iterator[str]]:
    """The lines of a stream that is long under way."""
    body = {"model": "tiny", "prompt": "def f(", "max_tokens": 1000, "stream": True, "ignore_eos": True}
    with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=60) as response:
        assert response.status_code == 200, response.read()
        yield response.iter_lines()


@pytest.mark.chaos
def test_a_head_and_a_worker_stop_within_a_second_and_move_nothing(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    words = ["serve", "tiny", "--port", "0", "--data-dir", f"{tmp_path}/head", "--no-local-worker"]
    with started(*words, log=log) as head:
        door = head.until("listening")
        ticket, url = door["ticket"], door["url"]
        with started("join", ticket, "--data-dir", f"{tmp_path}/worker", "--name", "ada") as worker:
            worker.until("serving")
            head.until("placed")
            with started("join", ticket, "--data-dir", f"{tmp_path}/idle", "--name", "idle") as idle:
                head.until("joined")
                assert idle.stop()[-2:] == ["draining", "left"]
            head.until("left")
            with listening_to(url) as lines:
                first = next(line for line in lines if line.startswith("data:"))
                assert head.stop() == ["stopping"]
                last = [first, *(line for line in lines if line.startswith("data:"))][-1]
            assert "being stopped" in json.loads(last[5:])["error"]["message"]
            logged = [json.loads(line) for line in log.read_text().splitlines() if '"request"' in line]
            assert [(entry["status"], entry["error"]) for entry in logged] == [(200, "pool_unavailable")]
            worker.until("head_lost")
            assert worker.stop()[-2:] == ["draining", "left"]
