"""What `--memory` promises, seen from outside, on real processes. `benchmarks/memory.py` tries more settings."""

import time
from pathlib import Path

import pytest

from benchmarks.memory import Setting, family, running, status_bytes, tried

MB = 10**6


@pytest.mark.parametrize(
    "setting",
    [
        Setting(620, requests=4, prompt_characters=1000),
        pytest.param(
            Setting(900, requests=4, prompt_characters=300, dtype="float32", local=True), marks=pytest.mark.chaos
        ),
    ],
    ids=["a worker", "a head that computes"],
)
def test_nothing_takes_more_than_was_lent_and_what_waits_is_small(setting: Setting, tmp_path: Path) -> None:
    seen = tried(setting, tmp_path)
    assert seen["peak_mb"] <= setting.memory_mb
    assert seen.get("idle_mb", 0) < 500
    assert seen.get("head_peak_mb", 0) < 250, "it has checked a model for the first time"
    # A second, and two for a machine that is busy with other tests.
    assert max(seen.get("worker_stop_s", 0), seen.get("head_stop_s", 0)) < 3


def test_a_head_leaves_nothing_running_that_it_has_started(tmp_path: Path) -> None:
    with running(tmp_path / "head", "serve", "tiny", "--port", "0", "--no-local-worker") as head:
        head.until("reading")
        while len(started := family(head.process.pid)) < 2:  # the process that checks the model
            time.sleep(0.05)
        head.stop_s()
    assert not [one for one in started if status_bytes(one, "VmRSS")]
