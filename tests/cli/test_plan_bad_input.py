"""What is wrong on the planner's command line is said in one sentence with the remedy, and an exit code."""

import json
from pathlib import Path

import pytest

from muster.cli.main import run_command

MODEL = ["plan", "llama-3-70b"]
PLAN = [*MODEL, "--pool", "deserve-8xl4"]
ELSEWHERE = "[elsewhere]\nlatency_s = 0.01\nbandwidth_bytes_per_s = 1e9\n"
PAIR = """
[[machine]]
name = "ada"
device = "h200"
region = "a"
[[machine]]
name = "bob"
device = "h200"
region = "b"
"""
MATRIX = '[matrix]\nof = ["a", "b"]\nlatency_s = [[0, 0.1], [0.1, 0]]\nbandwidth_bytes_per_s = '


def refused(words: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(words) == code
    said = capsys.readouterr()
    assert said.out == ""
    lines = [line for line in said.err.splitlines() if not line.endswith(" …")]  # what a slow machine waits for
    assert len(lines) == 1, said.err
    assert lines[0].startswith("muster: ")
    assert says in lines[0]
    assert run_command([*words, "--json"]) == code
    assert says in json.loads(capsys.readouterr().out)["error"]["message"]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["plan", "llama-3-71b", "--pool", "deserve-8xl4"], 2, "did you mean llama-3-70b"),
        ([*MODEL, "--pool", "deserve-8l4"], 2, "did you mean deserve-8xl4"),
        ([*MODEL, "--pool", "nowhere.toml"], 2, "check the path"),
        ([*PLAN, "--dtype", "int3"], 7, "choose one of float32"),
        ([*PLAN, "--rate", "0"], 2, "give requests per second, above 0 and at most 1,000,000"),
        ([*PLAN, "--rate", "1e300"], 2, "at most 1,000,000"),
        ([*PLAN, "--rate", "1e-300"], 2, "at least 1e-06"),
        ([*PLAN, "--rate", "nan"], 2, "is no rate"),
        ([*PLAN, "--deadline", "1e300"], 2, "give seconds, above 0 and at most"),
        ([*PLAN, "--rate", "fast"], 2, "'--rate': it must be a number; see `muster plan --help`"),
        ([*PLAN, "--seed", "-1"], 2, "'--seed': it must be 0 or more"),
        ([*PLAN, "--objective", "fame"], 2, "'fame' is not one of 'throughput', "),
        ([*PLAN, "--speed", "3"], 2, "No such option: --speed"),
        (["plan", "llama-3-70b"], 2, "Missing option '--pool'"),
        ([*PLAN, "--objective", "train", "--sequences", "1" + "0" * 30], 2, "it must be 1000000000 or less"),
        ([*PLAN, "--deadline", "-1"], 2, "give seconds, above 0"),
        ([*PLAN, "--objective", "slo", "--rate", "1"], 2, "give both"),
        ([*PLAN, "--deadline", "9"], 2, "give both"),
        ([*PLAN, "--budget", "0"], 2, "give US dollars per hour"),
        ([*PLAN, "--pin", "l4-1"], 2, "write it like ada=0-19"),
        ([*PLAN, "--pin", "l4-99=0-9"], 2, "did you mean"),
        ([*PLAN, "--pin", "l4-1=70-80"], 2, "layers are 0 to 79"),
        ([*PLAN, "--pin", "l4-1=9-3"], 2, "l4-1=3-9"),
        ([*PLAN, "--pin", "l4-1=0-9", "--pin", "l4-2=9-12"], 2, "puts layer 9 on l4-1 and on l4-2"),
        ([*PLAN, "--picture", "plan.gif"], 2, "end it in .svg or .png or .html"),
        ([*PLAN, "--picture", "no/such/plan.svg"], 8, "not a folder"),
        ([*PLAN, "--lock", "no/such/plan.lock"], 8, "not a folder"),
        ([*PLAN, "--save-pool", "/"], 8, "is a folder"),
        ([*PLAN, "--pin", "l4-1=0-39"], 2, "too little; pin fewer layers to it"),
        (
            [*PLAN, "--pin", "l4-1=0", "--pin", "l4-2=1", "--pin", "l4-3=2-3"],
            2,
            "fits on the pool, but not with these pins",
        ),
        ([*PLAN, "--pin", "l4-1=0-3", "--pin", "l4-1=10-12"], 2, "l4-1 is pinned twice"),
        ([*PLAN, "--budget", "3"], 2, "the cheapest found costs $12.14"),
        ([*PLAN, "--rate", "0.1", "--deadline", "2"], 2, "the best possible is"),
        ([*PLAN, "--prompt-tokens", "9000"], 2, "more than the 8192 that llama-3-70b takes"),
        ([*PLAN, "--sequences", "8"], 2, "--sequences says nothing to the objective throughput"),
        ([*PLAN, "--objective", "train", "--pin", "l4-1=2"], 2, "--pin says nothing to the objective train"),
        ([*PLAN, "--objective", "train", "--stages", "4"], 2, "--stages says nothing to the objective train"),
        (["plan", "bert-large", "--pool", "deserve-8xl4"], 2, "plan its training with --objective train"),
        (["plan", "deepseek-v3", "--pool", "deserve-8xl4"], 5, "add 50 more devices like those of l4-1"),
        (["plan", "gpt3-xl", "--pool", "dtfm-1", "--objective", "dtfm", "--stages", "7"], 2, "change the counts"),
    ],
    ids=lambda value: " ".join(value[1:]) if isinstance(value, list) else None,
)
def test_words_that_cannot_be_are_refused(
    words: list[str],
    code: int,
    says: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(words, code, says, capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("pool", "says"),
    [
        ("", "fleet.toml: The pool file has no machine; add a [[machine]] table"),
        ("machine = []", "has no machine"),
        ('[[machine]]\ndevice = "rtx-4099"', "did you mean rtx-4090"),
        (PAIR, "Nothing says how ada (a) reaches bob (b); add a [[link]]"),
        (PAIR + MATRIX + "[[1e9, 1e9]]", "it is not square"),
        (PAIR + MATRIX + "[[1e9, 1e9], [1e9]]", "it is not square"),
        (
            PAIR + MATRIX + "[[1e9, -1e9], [1e9, 1e9]]",
            "the bandwidth from a to b is -1000000000.0; it must lie between 1",
        ),
        (PAIR + MATRIX + "[[1e9, 1e9], [0, 1e9]]", "the bandwidth from b to a is 0.0; it must lie between 1"),
        (PAIR + ELSEWHERE.replace("1e9", "0"), "bandwidth_bytes_per_s"),
        (PAIR + ELSEWHERE.replace("0.01", "-1"), "latency_s"),
        ("colour = 3\n" + PAIR + ELSEWHERE, "unknown key 'colour'"),
        ("[[machine]", "fleet.toml: The pool file is not valid TOML"),
        (PAIR + ELSEWHERE.replace("0.01", "25ms"), 'write "25ms" in quotes'),
        (PAIR + "[elsewhere]\nbandwidth = 1.5 Gbit/s # up\n", 'write "1.5Gbit/s" in quotes'),
        (PAIR + "elsewhere = { latency_s = 25ms, bandwidth_bytes_per_s = 1e9 }", 'write "25ms" in quotes'),
        (
            PAIR.replace('"h200"', '"h200"\nmemory_bytes = 9') + ELSEWHERE,
            "lends 0.0 KiB of each device and a step alone",
        ),
        (PAIR.replace('"h200"', '"h200"\nmemory_bytes = 160e6') + ELSEWHERE, "with more on each than ada"),
    ],
)
def test_a_pool_file_that_cannot_be_is_refused(
    pool: str, says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "fleet.toml"
    file.write_text(pool)
    refused([*MODEL, "--pool", str(file)], 5 if "on each" in says or "of each" in says else 2, says, capsys)


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ([*MODEL, "--pool", "deserve-8x4090"], "machine l4-"),
        ([*PLAN, "--dtype", "float16"], "made for llama-3-70b in bfloat16, not for llama-3-70b in float16"),
        (["plan", "llama-3-8b", "--pool", "deserve-8xl4"], "not for llama-3-8b"),
        ([*PLAN, "--objective", "latency"], "made for the objective throughput, not latency"),
        ([*PLAN, "--rate", "0.1"], "another workload"),
        ([*PLAN, "--pin", "l4-1=40-41"], "does not keep layers"),
    ],
    ids=lambda value: " ".join(value[1:]) if isinstance(value, list) else None,
)
def test_a_lock_for_something_else_is_refused(
    other: list[str], says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    lock = str(tmp_path / "plan.lock")
    assert run_command([*PLAN, "--lock", lock]) == 0
    capsys.readouterr()
    refused([*other, "--lock", lock], 2, says, capsys)


def test_a_lock_that_is_none_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    lock = tmp_path / "plan.lock"
    lock.write_text("{")
    refused([*PLAN, "--lock", str(lock)], 2, "not valid JSON", capsys)
    assert lock.read_text() == "{", "nothing is overwritten"


def test_no_running_head_means_no_live_pool(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUSTER_DATA_DIR", str(tmp_path))
    refused([*MODEL, "--pool", "live", "--head", "http://127.0.0.1:9"], 5, "No head answers", capsys)


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [("--requests", "1000000000", "give at most 100,000"), ("--fault", "leave:nobody@1", "nobody")],
)
def test_what_is_wrong_with_a_run_is_said_before_the_search_for_a_plan(
    option: str, value: str, says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def searched(*args: object) -> None:
        raise AssertionError("a plan was searched for")

    monkeypatch.setattr("muster.cli.simulate_work.answer_in_dtype", searched)
    refused(["simulate", "llama-2-7b", "--pool", "deserve-8xl4", option, value], 2, says, capsys)


def test_a_file_without_an_end_is_not_read(capsys: pytest.CaptureFixture[str]) -> None:
    refused(
        ["simulate", "llama-2-7b", "--pool", "deserve-8xl4", "--trace", "/dev/zero"], 2, "more than 128 MiB", capsys
    )


def test_a_recorded_request_beyond_the_context_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "trace.csv").write_text("0,64,8\n1,4000,400\n")
    words = ["simulate", "llama-2-7b", "--pool", "deserve-8xl4", "--trace", str(tmp_path / "trace.csv")]
    refused(words, 2, "4000 prompt and 400 output tokens are more than the 4096", capsys)
