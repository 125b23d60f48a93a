"""The demo for real: five processes, three regions, one killed, nothing lost."""

import json

import pytest

from muster.cli.main import run_command


@pytest.mark.slow
def test_every_stream_ends_as_if_nobody_had_been_killed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["demo", "--json", "--max-tokens", "16"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["requests_failed"] == 0
    assert record["requests_identical"] == record["requests"] == 12
    assert record["tokens"] == record["undisturbed"]["tokens"] > 0
    assert record["tokens_per_s"] > 0
    assert len(record["nodes"]) == 4
    assert record["killed"] in {stage["name"] for stage in record["placement"]}
    assert record["killed"] not in {stage["name"] for stage in record["placement_after"]}
    assert record["text"].strip()
