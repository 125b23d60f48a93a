"""The demo for real: a head and workers as processes, in regions far apart; one is killed, nothing is lost."""

import json
from typing import Any

import pytest

from muster.cli.main import run_command
from muster.lab import stage_set
from muster.lab.stage_set import Part, demo_prompts

TWO = (Part("ada", "tokyo", 1.1, 1.0), Part("bob", "seoul", 1.1, 1.0))
"""Either can hold the model alone, so the other may be killed."""


def run_demo(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert run_command(["demo", "--json", "--max-tokens", "16"]) == 0
    record: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert record["requests_failed"] == 0
    assert record["requests_identical"] == record["requests"]
    assert record["tokens"] == record["undisturbed"]["tokens"] > 0
    assert record["tokens_per_s"] > 0
    assert record["killed"] in {stage["name"] for stage in record["placement"]}
    assert record["killed"] not in {stage["name"] for stage in record["placement_after"]}
    assert record["text"].strip()
    return record


@pytest.mark.slow
def test_every_stream_ends_as_if_nobody_had_been_killed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = demo_prompts()
    monkeypatch.setattr(stage_set, "PARTS", TWO)
    monkeypatch.setattr(stage_set, "demo_prompts", lambda: [prompts[0], prompts[-1]])
    record = run_demo(capsys)
    assert (record["requests"], len(record["nodes"])) == (2, 2)


@pytest.mark.chaos
def test_the_demo_as_it_is_shipped_holds_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    record = run_demo(capsys)
    assert (record["requests"], len(record["nodes"])) == (12, 4)
