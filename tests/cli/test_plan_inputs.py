"""Words on the command line become a model's sizes and a pool, or a sentence."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from muster.cli.plan_inputs import check_outputs, find_pool, find_shape, find_shapes, write_text
from muster.cli.planning import Question, answer_in_dtype, forecast_of
from muster.cost.measured import constants_for
from muster.cost.named_shapes import named_shape, shape_config
from muster.errors import DoesNotFit, InvalidRequest, MachineTrouble, MusterError, UnknownModel, UnsupportedModel
from muster.model.source import EMBEDDED
from muster.sim.serve.forecast import serve_forecast
from muster.spec.devices import device_facts
from muster.spec.plan import Pipeline, Plan, ServeSettings, Stage
from muster.spec.pool import Device, Node, Pool
from muster.spec.workload import ServeWorkload

TINY = EMBEDDED["tiny"]
SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "vocab_size": 100}
SMALL |= {"num_attention_heads": 4, "num_key_value_heads": 4}


def live() -> tuple[Pool, str]:
    return Pool((), name="measured"), "text"


def test_a_model_is_a_shape_a_folder_or_a_bare_configuration(tmp_path: Path) -> None:
    config = tmp_path / "mine.json"
    config.write_text(shape_config("llama-3-8b"))
    by_name, by_file = find_shape("llama-3-8b"), find_shape(str(config), "bfloat16")
    assert by_file.layer_bytes == by_name.layer_bytes
    assert by_file.name == tmp_path.name
    assert (
        find_shape("tiny").layer_bytes
        == find_shape(str(TINY)).layer_bytes
        == find_shape(str(TINY / "config.json")).layer_bytes
    )
    assert find_shape("llama-3-8b", "float32").layer_bytes[0] == 2 * by_name.layer_bytes[0]


def test_a_family_that_cannot_be_read_off_is_counted_from_its_modules(tmp_path: Path) -> None:
    config = {**SMALL, "model_type": "stablelm"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    shape = find_shape(str(tmp_path))
    assert (shape.num_layers, shape.dtype) == (3, "bfloat16")
    assert all(shape.layer_bytes)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("llama-3-71b", "llama-3-70b"),
        ("no such model", "owner/name"),
        ("..", "has no config.json"),
        ("a/b/c", "owner/name"),
        ("a/..b", "check the spelling"),
    ],
)
def test_an_unknown_model_is_told_what_could_be_meant(
    name: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownModel) as caught:
        find_shape(name)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"model_type": "llama"}', '{"model_type": "llama", "hidden_size": -1}']
)
def test_a_broken_configuration_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(MusterError, match=r"config\.json"):
        find_shape(str(tmp_path))


def test_bytes_instead_of_text_are_refused(tmp_path: Path) -> None:
    for name in ("config.json", "pool.toml"):
        (tmp_path / name).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidRequest, match="is not text"):
        find_shape(str(tmp_path))
    with pytest.raises(InvalidRequest, match="is not text"):
        find_pool(str(tmp_path / "pool.toml"), live)


def test_a_pool_is_a_fleet_a_file_or_what_runs(tmp_path: Path) -> None:
    fleet, text = find_pool("deserve-8xl4", live)
    file = tmp_path / "mine.toml"
    file.write_text(text)
    assert find_pool(str(file), live)[0].nodes == fleet.nodes
    assert find_pool("live", live)[0].name == "measured"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("deserve-8l4", "did you mean deserve-8xl4"),
        ("pool.toml", "no pool file pool.toml; check the path"),
        (".", "is a folder"),
        ("life", "did you mean live"),
    ],
)
def test_an_unknown_pool_is_told_what_could_be_meant(
    name: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidRequest) as caught:
        find_pool(name, live)
    assert says in str(caught.value)


def test_files_that_cannot_be_written_are_found_before_the_search(tmp_path: Path) -> None:
    check_outputs(tmp_path / "plan.SVG", tmp_path / "new.lock", None)
    with pytest.raises(InvalidRequest, match=r"end it in \.svg or \.png or \.html"):
        check_outputs(tmp_path / "plan.jpeg")
    with pytest.raises(MachineTrouble, match="is not a folder"):
        check_outputs(None, tmp_path / "nowhere" / "plan.lock")
    with pytest.raises(MachineTrouble, match="is a folder"):
        check_outputs(None, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "plan.lock"
    write_text(file, "one")
    write_text(file, "two")
    assert file.read_text() == "two"
    shutil.rmtree(tmp_path)
    with pytest.raises(MachineTrouble, match="cannot be written"):
        write_text(file, "three")


def test_a_pool_of_processors_is_forecast_with_what_was_measured_on_one() -> None:
    machine = Node("box", "box", "", device_facts("cpu-server-32").device())
    question = Question(named_shape("gpt2"), Pool((machine,)), "throughput")
    plan = Plan(
        "gpt2", (Pipeline((Stage("box", 0, 12),), ServeSettings(num_pages=500, page_size=16, num_microbatches=1)),)
    )
    measured = serve_forecast(plan, question.pool, question.shape, question.serve, constants_for("cpu"))
    assert forecast_of(question, plan) == measured
    assert measured != serve_forecast(plan, question.pool, question.shape, question.serve)


def machine(**speeds: float) -> Node:
    return Node("n", "n", "here", Device("cpu", "d", memory_bytes=2**30, flops_per_s=speeds))


@pytest.mark.parametrize("model_type", ["llama", "stablelm"])
def test_the_dtype_is_what_the_machines_compute_fast_unless_somebody_says(model_type: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**SMALL, "model_type": model_type, "torch_dtype": "auto"}))
    slow, fast = machine(float32=1e12), machine(float32=1e12, bfloat16=3e12)
    dtypes = [find_shapes(str(tmp_path), None, nodes)[0].dtype for nodes in ([slow], [fast], [slow, fast])]
    assert dtypes == ["float32", "bfloat16", "bfloat16"]
    assert [shape.dtype for shape in find_shapes(str(tmp_path), None, [slow])] == ["float32", "bfloat16"]
    assert [shape.dtype for shape in find_shapes(str(tmp_path), "float16", [slow, fast])] == ["float16"]
    with pytest.raises(UnsupportedModel, match="'int8' is not served"):
        find_shape(str(tmp_path), "int8")


@pytest.mark.parametrize("model_type", ["llama", "stablelm"])
def test_a_quantised_checkpoint_is_planned_as_it_is_published(model_type: str, tmp_path: Path) -> None:
    plain = {**SMALL, "model_type": model_type}
    (tmp_path / "config.json").write_text(json.dumps(plain))
    whole = find_shape(str(tmp_path), "bfloat16")
    (tmp_path / "config.json").write_text(json.dumps({**plain, "quantization_config": {"quant_method": "gptq"}}))
    packed = find_shape(str(tmp_path), "bfloat16")
    assert packed.packing == "gptq"
    assert sum(packed.layer_bytes) < 0.5 * sum(whole.layer_bytes)
    says = {"quantization_config": {"quant_method": "bitsandbytes"}}
    (tmp_path / "config.json").write_text(json.dumps({**plain, **says}))
    with pytest.raises(UnsupportedModel, match="bitsandbytes"):
        find_shape(str(tmp_path))


@pytest.mark.parametrize(("memory_mib", "dtype"), [(4000, "float32"), (1200, "bfloat16")])
def test_a_model_that_does_not_fit_in_the_fastest_dtype_is_planned_in_a_narrower_one(
    memory_mib: int, dtype: str, tmp_path: Path
) -> None:
    large = {**SMALL, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "model_type": "llama"}
    (tmp_path / "config.json").write_text(json.dumps({**large, "num_attention_heads": 8, "num_key_value_heads": 2}))
    slow = machine(float32=1e12)
    pool = Pool((replace(slow, device=replace(slow.device, memory_bytes=memory_mib * 2**20)),))
    shape, *narrower = find_shapes(str(tmp_path), None, pool.nodes)
    asked = Question(shape, pool, "throughput", ServeWorkload(64, 16), narrower=tuple(narrower))
    question, made = answer_in_dtype(asked, lambda: False)
    assert question.shape.dtype == dtype
    assert made.plan.pipelines
    tiny_pool = Pool((replace(slow, device=replace(slow.device, memory_bytes=2**27)),))
    with pytest.raises(DoesNotFit, match="needs"):
        answer_in_dtype(replace(asked, pool=tiny_pool), lambda: False)
