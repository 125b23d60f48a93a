"""What `muster status` says of several pipelines, and how many `muster serve` is told to make."""

from pathlib import Path
from typing import Any

import pytest

from muster.cli.serve import MAX_PIPELINES, read_pipelines
from muster.cli.status import pipeline_lines
from muster.errors import InvalidRequest

STAGE = {"node": "a" * 64, "name": "ada", "region": "oslo", "first": 0, "last": 6}


def pipeline(number: int, **facts: Any) -> dict[str, Any]:
    measured = {"requests": 3, "tokens_per_s": 12.3, "most_tokens_per_s": 40.0, "stalled": False}
    forecast = {"tokens_per_s": 44.0}
    return {
        "pipeline": f"tiny/{number}",
        "reason": "",
        "placement": [STAGE],
        "measured": measured,
        "forecast": forecast,
    } | facts


def test_several_pipelines_are_told_one_by_one_with_what_was_forecast() -> None:
    silent = {"requests": 1, "tokens_per_s": 0.0, "most_tokens_per_s": 9.0, "stalled": True}
    waits = pipeline(2, reason="A machine is missing.", placement=[], measured={}, forecast=None)
    lines = pipeline_lines({"jobs": [{"pipelines": [pipeline(0), pipeline(1, measured=silent), waits]}]})
    assert lines[0] == "tiny/0: 3 requests, 12.3 tokens/s now, 40.0 at most, forecast 44.0"
    assert "ada" in lines[2]
    assert "tiny/1: 1 requests, 0.0 tokens/s now, 9.0 at most, forecast 44.0, silent" in lines
    assert lines[-1] == "tiny/2: A machine is missing."


def test_one_pipeline_is_drawn_as_ever() -> None:
    lines = pipeline_lines({"jobs": [{"pipelines": [pipeline(0)]}], "placement": [STAGE]})
    assert not any("tiny/0" in line for line in lines)
    assert any("ada" in line for line in lines)


def test_a_plan_or_pins_say_how_many_pipelines_there_are() -> None:
    assert read_pipelines("auto", None, None) == MAX_PIPELINES
    assert read_pipelines("auto", ["ada=0-3"], None) == 1
    assert read_pipelines("auto", None, Path("plan.lock")) == 1
    assert read_pipelines("3", ["ada=0-3"], None) == 3


@pytest.mark.parametrize("word", ["", "0", "65", "many", "-1", "9" * 5000, "²"])
def test_what_is_no_number_of_pipelines_is_refused(word: str) -> None:
    with pytest.raises(InvalidRequest, match="write auto, or a number up to 64"):
        read_pipelines(word, None, None)


def test_a_plan_and_a_number_contradict_each_other() -> None:
    with pytest.raises(InvalidRequest, match="leave --pipelines out"):
        read_pipelines("2", None, Path("plan.lock"))
