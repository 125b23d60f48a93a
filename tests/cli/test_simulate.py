"""`muster simulate` from a lock file or a model to figures, with and without faults."""

import json
from pathlib import Path
from typing import Any

import pytest

from muster.cli.main import run_command

POOL = ["--pool", "deserve-8xl4"]


@pytest.fixture(scope="module")
def lock(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = str(tmp_path_factory.mktemp("plans") / "plan.lock")
    assert run_command(["plan", "llama-3-70b", *POOL, "--lock", file]) == 0
    return file


def told(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert run_command(words) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def record(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(told([*words, "--json"], capsys))
    return found


def test_a_plan_runs_on_the_pool_that_it_was_made_for(lock: str, capsys: pytest.CaptureFixture[str]) -> None:
    made = record(["simulate", lock, "--requests", "40"], capsys)
    assert made["run"]["finished"] == 40
    assert made["undisturbed"] is None
    assert made["run"]["request_s"]["p50"] <= made["run"]["request_s"]["p99"]
    assert made["pool"] == "deserve-8xl4"
    again = record(["simulate", lock, "--requests", "40"], capsys)
    assert again == made, "the same seed gives the same run"


def test_a_loss_costs_time_and_is_laid_beside_the_run_without_it(lock: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "simulate",
        lock,
        "--requests",
        "60",
        "--rate",
        "0.5",
        "--fault",
        "leave:l4-3@30",
        "--fault",
        "join:l4-3@60",
    ]
    made = record(words, capsys)
    assert made["faults"] == ["leave:l4-3@30", "join:l4-3@60"]
    assert made["run"]["request_s"]["p99"] > made["undisturbed"]["request_s"]["p99"]
    assert made["run"]["finished"] == 60
    said = told(words, capsys)
    assert "What the faults cost" in said
    assert "lost their pipeline" in said


def test_a_slow_machine_slows_the_ring(lock: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["simulate", lock, "--requests", "40", "--fault", "slow:l4-3@0x0.25"]
    made = record(words, capsys)
    assert made["run"]["tokens_per_s"] < made["undisturbed"]["tokens_per_s"]


def test_a_deadline_and_a_trace_take_the_place_of_the_plans_workload(
    lock: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("at,prompt,output\n" + "".join(f"{second},64,8\n" for second in range(20)))
    made = record(["simulate", lock, "--trace", str(trace), "--deadline", "1"], capsys)
    assert made["run"]["finished"] == 20
    assert made["run"]["attainment"] == 0.0
    assert made["workload"]["deadline_s"] == 1.0


def test_a_model_is_planned_for_first(capsys: pytest.CaptureFixture[str]) -> None:
    made = record(["simulate", "tiny", *POOL, "--requests", "20"], capsys)
    assert made["model"] == "tiny"
    assert made["run"]["finished"] == 20


TRAIN = ["gpt2-xl", *POOL, "--objective", "train"]


def test_training_steps_run_and_a_loss_costs_the_step_at_hand(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    lock = str(tmp_path / "train.lock")
    told(["plan", *TRAIN, "--sequences", "64", "--length", "512", "--lock", lock], capsys)
    made = record(["simulate", lock, "--steps", "4", "--fault", "leave:l4-3@5"], capsys)
    assert made["undisturbed"]["steps"] == 4
    assert made["run"]["lost_steps"] == 1
    assert made["run"]["duration_s"] > made["undisturbed"]["duration_s"]
    assert made["undisturbed"]["step_s"] == pytest.approx(made["forecast"]["step_s"], rel=0.05)
    assert "until the last microbatch" in told(["simulate", lock], capsys)
    late = told(["simulate", lock, "--fault", "leave:l4-3@5000"], capsys)
    assert "perhaps the run had ended" in late


def test_what_json_printed_can_be_simulated(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    file.write_text(told(["plan", "llama-3-70b", *POOL, "--json"], capsys))
    assert record(["simulate", str(file), "--requests", "5"], capsys)["run"]["finished"] == 5


def test_a_small_screen_breaks_no_figure(lock: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = told(["simulate", lock, "--requests", "20", "--fault", "slow:l4-3@0x0.5"], capsys)
    assert max(map(len, said.splitlines())) <= 80
    assert "…" not in said


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["no-such-plan.lock"], 2, "together with --pool"),
        (["LOCK", "--pool", "deserve-8x4090"], 2, "does not match: machine l4-"),
        (["LOCK", "--fault", "leave:l4-9@3"], 2, "no machine of the pool"),
        (["LOCK", "--fault", "melt:l4-1@3"], 2, "write it like"),
        (["LOCK", "--trace", "nowhere.csv"], 2, "cannot be read"),
        (["LOCK", "--rate", "0"], 2, "give requests per second"),
        (["LOCK", "--steps", "3"], 2, "--steps says nothing to a plan for serving"),
        ([*TRAIN, "--requests", "3"], 2, "--requests says nothing to a plan for training"),
        (["LOCK", "--picture", "x.pdf"], 2, "end it in .svg or .png or .html"),
        (["LOCK", "--prompt-tokens", "9000", "--requests", "1"], 2, "takes"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_cannot_be_is_refused(
    words: list[str],
    code: int,
    says: str,
    lock: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert run_command(["simulate", *(lock if word == "LOCK" else word for word in words)]) == code
    said = capsys.readouterr().err
    assert says in said
    assert [line.endswith(" …") for line in said.splitlines()].count(False) == 1


def test_what_is_left_of_a_pool_goes_on_with_a_new_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a standby that could take the lost layers as they were cut."""
    pool = tmp_path / "three.toml"
    machine = '[[machine]]\nname = "{}"\ndevice = "rtx-3090"\n'
    machines = [machine.format(name) for name in ("ada", "bob", "cleo")]
    pool.write_text("".join([*machines, "[elsewhere]\nlatency_s = 0.02\nbandwidth_bytes_per_s = 12.5e6\n"]))
    words = ["simulate", "llama-2-13b", "--pool", str(pool), "--requests", "60", "--fault", "leave:bob@10"]
    made = record(words, capsys)
    assert made["run"]["finished"] == 60
    assert made["run"]["resubmissions"] > 0


ALL_BUT_FOUR = [word for number in range(1, 5) for word in ("--fault", f"leave:l4-{number}@1")]
"""Four cards hold no model of 131 GiB, however much host memory they have for cache."""


def test_where_nobody_answers_any_more_that_is_said_first(lock: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = told(["simulate", lock, "--requests", "40", *ALL_BUT_FOUR], capsys)
    assert "40 of 40 requests never got an answer: nobody was left" in " ".join(said.split())
    assert "for ever" not in said
    assert "try --requests" not in said


def test_a_pipeline_of_several_devices_goes_on_with_what_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pool = tmp_path / "boxes.toml"
    box = '[[machine]]\nname = "{}"\ndevice = "{}"\ndevices = {}\n'
    elsewhere = "[elsewhere]\nlatency_s = 0.05\nbandwidth_bytes_per_s = 1e7\n"
    pool.write_text(box.format("pair", "a100-40gb", 2) + box.format("single", "a40", 1) + elsewhere)
    words = ["simulate", "qwen2.5-14b", "--pool", str(pool), "--objective", "latency", "--requests", "20"]
    run = record([*words, "--output-tokens", "400", "--fault", "leave:pair@2"], capsys)["run"]
    assert run["finished"] == 20
    assert run["resubmissions"] > 0
