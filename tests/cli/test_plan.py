"""`muster plan` from the words to the table and the JSON."""

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from muster.cli import plan_work
from muster.cli.head_client import HeadClient
from muster.cli.main import run_command
from muster.spec.fleets import fleet_text

PLAN = ["plan", "llama-3-70b", "--pool", "deserve-8xl4"]


def told(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert run_command(words) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def record(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(told([*words, "--json"], capsys))
    return found


def test_a_person_sees_stages_forecast_and_bottleneck(capsys: pytest.CaptureFixture[str]) -> None:
    said = told(PLAN, capsys)
    for part in ("machine", "l4-1", "layers", "of 21.8GiB", "tokens", "first token", "an hour", "power", "Bottleneck:"):
        assert part in said.replace(" GiB", "GiB"), part
    assert re.search(r"reserve +busy", said)
    assert re.search(r"l4-1 .* 691\.0 MiB +\d+%", said), "what of each device is not lent"
    assert "Rejected" not in said, "only when asked to explain"


@pytest.mark.parametrize(
    ("kind", "short", "options"),
    [
        ("serve", [], ["--rate", "0.5", "--prompt-tokens", "64"]),
        ("train", ["--objective", "train"], ["--sequences", "4", "--recompute"]),
    ],
)
def test_both_forms_of_the_verb_plan_the_same(
    kind: str, short: list[str], options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["gpt2-xl", "--pool", "deserve-8xl4", *options]
    long = record(["plan", kind, *words], capsys)
    assert long | {"seconds": 0} == record(["plan", *words, *short], capsys) | {"seconds": 0}


def test_a_plan_says_whether_a_pool_can_run_it_and_runnable_plans_only_such(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pool = tmp_path / "boxes.toml"
    box = '[[machine]]\nname = "{}"\ndevice = "rtx-3090"\ndevices = 2\n'
    pool.write_text(box.format("a") + box.format("b") + "[elsewhere]\nlatency_s = 0.001\nbandwidth_bytes_per_s = 1e9\n")
    words = ["plan", "opt-6.7b", "--pool", str(pool)]
    assert record(words, capsys)["beyond_runtime"] == []
    assert "muster serve --plan" in told(words, capsys)
    training = ["plan", "train", "gpt2-xl", "--pool", str(pool)]
    assert record(training, capsys)["beyond_runtime"] == ["training"]
    made = record([*words, "--runnable"], capsys)
    assert made["beyond_runtime"] == []
    assert all(len(stage["devices"]) == 1 for pipeline in made["plan"]["pipelines"] for stage in pipeline["stages"])


@pytest.mark.parametrize(("kind", "strange"), [("serve", "--sequences"), ("train", "--rate")])
def test_a_form_lacks_the_options_of_the_other(kind: str, strange: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["plan", kind, "gpt2-xl", "--pool", "deserve-8xl4", strange, "4"]) == 2
    said = capsys.readouterr().err
    assert f"No such option: {strange}" in said
    assert f"see `muster plan {kind} --help`." in said


def test_options_may_stand_before_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert record(["plan", "--pool", "deserve-8xl4", "gpt2-xl"], capsys)["model"]["name"] == "gpt2-xl"
    assert run_command(["plan", "gpt2-xl"]) == 2
    assert "Missing option '--pool'; see `muster plan --help`." in capsys.readouterr().err


def test_a_program_gets_the_whole_plan_and_forecast(capsys: pytest.CaptureFixture[str]) -> None:
    made = record(PLAN, capsys)
    stages = made["plan"]["pipelines"][0]["stages"]
    assert stages[0]["first"] == 0
    assert stages[-1]["last"] == 80
    assert made["forecast"]["tokens_per_s"] > 0
    for stage in made["forecast"]["stages"]:
        assert stage["used_bytes"] + stage["headroom_bytes"] == stage["cap_bytes"]
    per_million = made["cost"]["dollars_per_hour"] / made["forecast"]["tokens_per_s"] / 3600 * 1e6
    assert made["cost"]["dollars_per_million_tokens"] == pytest.approx(per_million)
    assert made["search"]["finished"] is True
    assert "explain" not in made


def test_the_same_seed_gives_the_same_plan(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = record([*PLAN, "--seed", "5"], capsys), record([*PLAN, "--seed", "5"], capsys)
    assert {**first, "seconds": 0} == {**second, "seconds": 0}


def test_the_explanation_holds_break_evens_and_what_one_more_adds(capsys: pytest.CaptureFixture[str]) -> None:
    made = record([*PLAN, "--explain"], capsys)["explain"]
    by_name = {row["name"]: row for row in made["break_even"]}
    machines = by_name["gcp-8xl4"]["per_hour"] / 1.735
    assert by_name["gcp-8xl4"]["tokens_per_s"]["llama-70b-together"] == pytest.approx(4283 * machines / 8, rel=1e-3)
    (more,) = made["one_more"]
    assert more["device"] == "l4"
    assert more["score"] > 0
    said = told([*PLAN, "--explain"], capsys)
    assert "With one machine more" in said
    assert "pay for the machines" in said


def test_dtfms_objective_gives_its_cost_and_placement_at_the_top(capsys: pytest.CaptureFixture[str]) -> None:
    made = record(["plan", "gpt3-xl", "--pool", "dtfm-1", "--objective", "dtfm"], capsys)
    assert made["cost_s"] == pytest.approx(3.440, abs=5e-4)
    assert made["cost_s"] == pytest.approx(made["data_parallel_s"] + made["pipeline_s"])
    assert [len(row) for row in made["placement"]] == [8] * 8
    assert len({name for row in made["placement"] for name in row}) == 64
    assert made["seconds"] >= 0
    assert made["workload"]["sequences"] == 488, "the published job: 1e6 tokens in texts of 2048"


def test_a_training_plan_has_a_step_and_may_compress(capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "plan",
        "gpt2-xl",
        "--pool",
        "deserve-8xl4",
        "--objective",
        "train",
        "--sequences",
        "16",
        "--length",
        "512",
    ]
    made = record(words, capsys)
    assert made["plan"]["pipelines"][0]["work"]["kind"] == "train"
    assert made["workload"]["sequences"] == 16
    assert made["forecast"]["step_s"] == made["search"]["score"]
    assert made["search"]["bound"] <= made["search"]["score"]
    packed = record([*words, "--compress"], capsys)
    assert packed["forecast"]["step_s"] <= made["forecast"]["step_s"] * (1 + 1e-9)


def test_a_large_plan_is_shown_pipeline_by_pipeline(capsys: pytest.CaptureFixture[str]) -> None:
    said = told(["plan", "gpt3-xl", "--pool", "dtfm-1", "--objective", "dtfm"], capsys)
    assert "instance-0 ×8" in said
    assert "3 each" in said
    assert len(said.splitlines()) < 30


def test_a_lock_is_written_once_and_kept_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock = tmp_path / "plan.lock"
    first = record([*PLAN, "--lock", str(lock)], capsys)
    written = lock.read_text()
    second = record([*PLAN, "--lock", str(lock), "--seed", "9"], capsys)
    assert second["plan"] == first["plan"]
    assert second["search"]["score"] is None, "nothing was searched for"
    assert lock.read_text() == written


def test_a_lock_holds_while_prices_change_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock, pool = tmp_path / "plan.lock", tmp_path / "pool.toml"
    pool.write_text(fleet_text("deserve-8xl4"))
    words = ["plan", "llama-3-70b", "--pool", str(pool), "--lock", str(lock)]
    told(words, capsys)
    pool.write_text(fleet_text("deserve-8xl4").replace("price_per_hour = 1.735", "price_per_hour = 2"))
    assert run_command(words) == 0
    said = capsys.readouterr()
    assert "is kept to, though speeds or prices of machines are others than then" in said.err
    assert "$16.00 an hour" in said.out
    assert run_command([*words, "--explain"]) == 0, "a kept plan is explained as far as it goes"


def test_the_pool_can_be_kept_as_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.toml"
    first = record([*PLAN, "--save-pool", str(file)], capsys)
    again = record(["plan", "llama-3-70b", "--pool", str(file)], capsys)
    assert again["plan"] == first["plan"]


def test_the_pool_of_a_running_head_is_planned_for_and_kept_as_it_was_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = "# measured today\n" + fleet_text("deserve-8xl4").replace('"deserve-8xl4"', '"measured"')
    head = HeadClient("http://head", transport=httpx.MockTransport(lambda request: httpx.Response(200, text=measured)))
    monkeypatch.setattr(plan_work, "find_head", lambda *_, **__: head)
    file = tmp_path / "live.toml"
    made = record(["plan", "llama-3-70b", "--pool", "live", "--save-pool", str(file)], capsys)
    assert 'name = "measured"' in made["pool"]
    assert file.read_text() == measured


@pytest.mark.parametrize("words", [[], ["--objective", "train", "--sequences", "8", "--length", "256"]])
def test_a_picture_has_a_map_and_a_timeline(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "plan.svg"
    said = told(["plan", "gpt2-xl", "--pool", "deserve-8xl4", *words, "--picture", str(file)], capsys)
    assert ("step" in said) == ("train" in words)
    drawn = file.read_text()
    assert "l4-" in drawn
    assert "Timeline" in drawn


def test_a_small_screen_breaks_no_figure(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    said = told([*PLAN, "--explain"], capsys)
    assert max(map(len, said.splitlines())) <= 80
    assert "…" not in said


def test_what_an_hour_costs_says_what_of_it_is_electricity(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    machine = '[[machine]]\ndevice = "rtx-3090"\nprice_per_hour = 1.0\nwatts = 500\n'
    (tmp_path / "pool.toml").write_text(machine + "[market]\nelectricity_price_per_kwh = 0.5\n")
    assert run_command(["plan", "llama-2-7b", "--pool", str(tmp_path / "pool.toml")]) == 0
    assert "$1.25 an hour, $0.25 of it electricity, $" in capsys.readouterr().out
