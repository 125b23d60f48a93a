"""`muster serve --pin` and `--plan`: what they mean, and what they refuse with one sentence."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from muster.cli.main import run_command
from muster.cli.pins import read_pin, read_saved_plan
from muster.head.pins import pipelines_of_plan
from muster.model.shape import shape_of
from muster.model.source import resolve
from muster.model.weights import open_directory
from muster.plan.serve.options import Pin
from muster.spec.model_shape import ModelShape
from muster.spec.plan_file import parse_plan_file, to_record

POOL = """
[[machine]]
name = "ada"
kind = "cpu"
memory_bytes = 24e6
flops_per_s = { float32 = 1e11 }
memory_bandwidth_bytes_per_s = 1e10
[[machine]]
name = "bob"
kind = "cpu"
memory_bytes = 30e6
flops_per_s = { float32 = 1e11 }
memory_bandwidth_bytes_per_s = 1e10
[elsewhere]
latency_s = 0.001
bandwidth_bytes_per_s = 1e9
"""


@pytest.fixture(scope="module")
def shape() -> ModelShape:
    return shape_of(open_directory(resolve("tiny")).config_json, "tiny", "float32")


@pytest.fixture(scope="module")
def lock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("locks")
    (folder / "pool.toml").write_text(POOL)
    words = ["plan", "tiny", "--dtype", "float32", "--pool", str(folder / "pool.toml"), "--prompt-tokens", "100"]
    assert run_command([*words, "--output-tokens", "50", "--lock", str(folder / "plan.lock")]) == 0
    return folder / "plan.lock"


def test_a_pin_counts_layers_from_0_and_means_both_ends() -> None:
    assert read_pin("ada=0-19") == Pin("ada", 0, 20)
    assert read_pin(" a=b=3 – 4") == Pin("a=b", 3, 5)
    assert read_pin("bob=20") == Pin("bob", 20, 21)


def test_a_lock_pins_every_machine_of_its_pipeline_by_name(lock: Path, shape: ModelShape) -> None:
    (planned,) = pipelines_of_plan(read_saved_plan(lock), shape)
    assert planned.work == read_saved_plan(lock).file.plan.only_pipeline.serve
    pins = sorted(planned.pins, key=lambda pin: pin.first)
    assert {pin.node for pin in pins} == {"ada", "bob"}
    assert [pin.first for pin in pins] == [0, pins[0].last]
    assert pins[-1].last == shape.num_layers


def serve(capsys: pytest.CaptureFixture[str], tmp_path: Path, *words: str) -> tuple[int, str]:
    capsys.readouterr()
    code = run_command(["serve", "tiny", "--no-local-worker", "--data-dir", str(tmp_path), *words])
    said = capsys.readouterr().err
    assert said.startswith("muster: ")
    assert said.count("\n") == 1
    return code, said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["ada"], "write it like ada=0-19"),
        (["ada=5-2"], "write it like ada=2-5"),
        (["ada=0-6"], "layers are 0 to 5"),
        (["ada=0-2", "bob=2-5"], "layer 2 on ada and on bob"),
        (["ada=0-1", "ada=2-5"], "names ada twice"),
        (["ada=0-99999999999"], "cannot be read"),
    ],
)
def test_a_pin_that_no_pool_could_keep(
    words: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = serve(capsys, tmp_path, *(word for pin in words for word in ("--pin", pin)))
    assert code == 2
    assert says in said


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda e: e["model"].update(layer_bytes=[2 * n for n in e["model"]["layer_bytes"]]), "was made for tiny"),
        (lambda e: e["plan"]["pipelines"][0]["stages"][0].update(devices=[1]), "uses device 1 of ada, which has one"),
    ],
)
def test_a_lock_that_no_pool_runs(
    spoil: Callable[[Any], object], says: str, lock: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = json.loads(lock.read_text())
    spoil(entries)
    (tmp_path / "spoilt.lock").write_text(json.dumps(entries))
    code, said = serve(capsys, tmp_path, "--plan", str(tmp_path / "spoilt.lock"))
    assert code == 2
    assert says in said


def test_a_lock_of_several_pipelines_pins_each_its_own(lock: Path, shape: ModelShape, tmp_path: Path) -> None:
    held = parse_plan_file(lock.read_text())
    twins = tuple(replace(node, id=f"{node.id}-2", name=f"{node.name}-2") for node in held.pool.nodes)
    (pipeline,) = held.plan.pipelines
    twin = replace(pipeline, stages=tuple(replace(stage, node=f"{stage.node}-2") for stage in pipeline.stages))
    pool = replace(held.pool, nodes=(*held.pool.nodes, *twins), links={})
    written = to_record(replace(held, pool=pool, plan=replace(held.plan, pipelines=(pipeline, twin), standbys=())))
    (tmp_path / "two.lock").write_text(json.dumps(written))
    both = pipelines_of_plan(read_saved_plan(tmp_path / "two.lock"), shape)
    assert [{pin.node for pin in one.pins} for one in both] == [{"ada", "bob"}, {"ada-2", "bob-2"}]


def test_a_lock_of_tensor_parallelism_names_its_devices(lock: Path, shape: ModelShape, tmp_path: Path) -> None:
    held = parse_plan_file(lock.read_text())
    twins = tuple(replace(node, id=f"{node.id}-2", name=f"{node.name}-2") for node in held.pool.nodes)
    nodes = tuple(replace(node, device_count=2) for node in (*held.pool.nodes, *twins))
    (pipeline,) = held.plan.pipelines
    both = [
        replace(pipeline, stages=tuple(replace(s, node=f"{s.node}{end}", devices=(0, 1)) for s in pipeline.stages))
        for end in ("", "-2")
    ]
    plan = replace(held.plan, pipelines=tuple(both), standbys=())
    written = to_record(replace(held, pool=replace(held.pool, nodes=nodes, links={}), plan=plan))
    (tmp_path / "big.lock").write_text(json.dumps(written))
    both_held = pipelines_of_plan(read_saved_plan(tmp_path / "big.lock"), shape)
    assert {pin.devices for one in both_held for pin in one.pins} == {(0, 1)}


def test_both_at_once_or_no_plan(lock: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "give one of them" in serve(capsys, tmp_path, "--plan", str(lock), "--pin", "ada=0")[1]
    assert "cannot be read" in serve(capsys, tmp_path, "--plan", str(tmp_path / "none"))[1]
