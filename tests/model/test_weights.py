"""Weights that are wrong are refused with one sentence; weights that are right are read tensor by tensor."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from muster.errors import UnsupportedModel, WeightsInvalid
from muster.model.architecture import parse_config
from muster.model.blobs import build_manifest
from muster.model.load import load_stage
from muster.model.rehearsal import largest_difference, sequences
from muster.model.stage import build_stage
from muster.model.tensor_file import TensorFile
from muster.model.weights import INDEX_NAME, open_directory
from tests.model.families import CPU, LAYERS, VOCAB, dense_model, save


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save(dense_model("llama"), tmp_path)


def rewrite(path: Path, **changes: torch.Tensor | None) -> None:
    """Replace tensors of the single file; None drops one. `__` stands for a dot."""
    tensors = load_file(path / "model.safetensors")
    for key, tensor in changes.items():
        name = key.replace("__", ".")
        if tensor is None:
            del tensors[name]
        else:
            tensors[name] = tensor
    save_file(tensors, path / "model.safetensors")


def build(path: Path, first: int = 0, last: int = LAYERS) -> None:
    build_stage(open_directory(path), first, last, torch.float32, CPU)


def test_a_sharded_checkpoint_is_read_through_its_index(tmp_path: Path) -> None:
    model = dense_model("mixtral")
    save(model, tmp_path, shard_bytes=20_000)
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    stage = build_stage(open_directory(tmp_path), 0, LAYERS, torch.float32, CPU)
    assert largest_difference(model, [stage], sequences(VOCAB)) < 1e-5


def test_a_stage_opens_only_the_files_that_hold_its_tensors(tmp_path: Path) -> None:
    save(dense_model("llama"), tmp_path, shard_bytes=6_000)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    kept = {file for name, file in index.items() if name.startswith("model.layers.1.")}
    for file in set(index.values()) - kept:
        (tmp_path / file).unlink()
    build(tmp_path, 1, 2)


def test_a_truncated_file_is_named(saved: Path) -> None:
    file = saved / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(WeightsInvalid, match=r"model\.safetensors is damaged: .*truncated.*download"):
        build(saved)


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 8, b"\xff" * 100, b"\x02" + bytes(7) + b"[]", b"\x02" + bytes(7) + b"{"]
)
def test_what_is_not_safetensors_is_refused(saved: Path, content: bytes) -> None:
    (saved / "model.safetensors").write_bytes(content)
    with pytest.raises(WeightsInvalid, match=r"damaged|cannot be read"):
        build(saved)


def test_a_missing_tensor_is_named(saved: Path) -> None:
    rewrite(saved, model__layers__1__mlp__up_proj__weight=None)
    with pytest.raises(WeightsInvalid, match=r"no tensor for model\.layers\.1\.mlp\.up_proj\.weight"):
        build(saved)
    build(saved, 2, 3)  # a stage that does not need it is not disturbed


def test_a_wrong_shape_is_named_with_both_shapes(saved: Path) -> None:
    rewrite(saved, model__norm__weight=torch.zeros(7))
    with pytest.raises(WeightsInvalid, match=r"model\.norm\.weight has shape \(7,\) where config\.json says \(32,\)"):
        build(saved)


def test_experts_of_different_shapes_are_refused(tmp_path: Path) -> None:
    save(dense_model("mixtral"), tmp_path)
    name = "model__layers__1__block_sparse_moe__experts__2__w1__weight"
    assert name.replace("__", ".") in open_directory(tmp_path).names()
    rewrite(tmp_path, **{name: torch.zeros(3, 3)})
    with pytest.raises(WeightsInvalid, match="download"):
        build(tmp_path)


def test_one_expert_too_few_is_refused(tmp_path: Path) -> None:
    save(dense_model("mixtral"), tmp_path)
    rewrite(tmp_path, model__layers__1__block_sparse_moe__experts__3__w2__weight=None)
    with pytest.raises(WeightsInvalid, match="shape"):
        build(tmp_path)


def test_a_directory_without_safetensors_is_told_so(saved: Path) -> None:
    (saved / "model.safetensors").rename(saved / "pytorch_model.bin")
    with pytest.raises(WeightsInvalid, match="holds no safetensors file"):
        build(saved)


def test_a_missing_or_mangled_config_is_told_so(saved: Path) -> None:
    (saved / "config.json").write_text("{nonsense")
    with pytest.raises(WeightsInvalid, match=r"config\.json"):
        build(saved)
    (saved / "config.json").unlink()
    with pytest.raises(WeightsInvalid, match=r"config\.json"):
        build(saved)


def test_an_index_that_points_outside_its_directory_is_refused(saved: Path) -> None:
    (saved / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../other.safetensors"}}))
    with pytest.raises(WeightsInvalid, match="outside"):
        open_directory(saved)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"model_type": "no-such-thing"}, "does not know the architecture"),
        ({"model_type": "vit"}, "not a text decoder"),
        ({"model_type": "llama", "quantization_config": {"quant_method": "bitsandbytes"}}, "quantised"),
    ],
)
def test_a_config_that_cannot_be_served_says_why(fields: dict[str, object], reason: str) -> None:
    with pytest.raises(UnsupportedModel, match=reason):
        parse_config(json.dumps(fields))


def test_code_that_comes_with_a_model_is_not_run(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = json.loads((saved / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    (saved / "config.json").write_text(json.dumps(config))
    (saved / "evil.py").write_text("raise SystemExit('ran')")
    monkeypatch.chdir(saved)
    stage = load_stage(open_directory(saved), 0, LAYERS, torch.float32, CPU)
    assert type(stage._model).__module__.startswith("transformers.")


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_reader_of_headers(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "model.safetensors"
    header = len(content).to_bytes(8, "little") + content
    for data in (content, header):
        path.write_bytes(data)
        try:
            TensorFile(path)
        except WeightsInvalid:
            continue


def test_reading_does_not_depend_on_the_file_afterwards(saved: Path) -> None:
    weights = open_directory(saved)
    before = weights.read("lm_head.weight")
    copy = before.clone()
    (saved / "model.safetensors").write_bytes(b"")
    assert torch.equal(before, copy)


@pytest.mark.parametrize("saved_by", ["this version", "an older version"])
def test_the_decoder_inside_a_multimodal_checkpoint_is_served(saved_by: str, tmp_path: Path) -> None:
    model = dense_model("gemma3")
    save(model, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    if saved_by == "this version":
        renamed = {name.replace("model.", "model.language_model.", 1): tensor for name, tensor in tensors.items()}
    else:
        renamed = {f"language_model.{name}": tensor for name, tensor in tensors.items()}
    save_file({**renamed, "vision_tower.encoder.weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    text = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "gemma3", "text_config": text, "vision_config": {}})
    )
    stages = [build_stage(open_directory(tmp_path), *cuts, torch.float32, CPU) for cuts in [(0, 1), (1, LAYERS)]]
    assert largest_difference(model, stages, sequences(VOCAB)) < 1e-5


def test_names_without_the_prefix_and_old_leftovers_are_understood(tmp_path: Path) -> None:
    """As the published GPT-2 has them: `h.0…` instead of `transformer.h.0…`, and causal masks among the weights."""
    model = dense_model("gpt2")
    save(model, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    renamed = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    renamed["h.0.attn.bias"] = torch.ones(1, 1, 64, 64)
    save_file(renamed, tmp_path / "model.safetensors")
    stages = [build_stage(open_directory(tmp_path), *cuts, torch.float32, CPU) for cuts in [(0, 2), (2, LAYERS)]]
    assert largest_difference(model, stages, sequences(VOCAB)) < 1e-5


def test_a_tied_head_needs_no_tensor_of_its_own_on_the_last_stage(tmp_path: Path) -> None:
    model = dense_model("llama-tied")
    save(model, tmp_path)
    assert "lm_head.weight" not in open_directory(tmp_path).names()
    alone = build_stage(open_directory(tmp_path), 0, LAYERS, torch.float32, CPU)
    assert alone._model.lm_head.weight.data_ptr() == alone._model.model.embed_tokens.weight.data_ptr()
    last = build_stage(open_directory(tmp_path), 2, LAYERS, torch.float32, CPU)
    assert torch.equal(last._model.lm_head.weight, model.lm_head.weight)
    assert last._model.model.embed_tokens.weight.is_meta


def sharded(path: Path) -> Path:
    """In several files, with an index."""
    save(dense_model("llama"), path, shard_bytes=20_000)
    assert len(list(path.glob("*.safetensors"))) > 2
    return path


def index_of(path: Path) -> dict[str, str]:
    weight_map: dict[str, str] = json.loads((path / INDEX_NAME).read_text())["weight_map"]
    return weight_map


def write_index(path: Path, weight_map: dict[str, str], **more: object) -> None:
    (path / INDEX_NAME).write_text(json.dumps({**more, "weight_map": weight_map}))


def leftover(path: Path) -> None:
    """An index of another download, whose files are not here."""
    write_index(path, dict.fromkeys(open_directory(path).names(), "model-00001-of-00002.safetensors"))


def damaged_leftover(path: Path) -> None:
    (path / INDEX_NAME).write_text('{"weight_map": {')


def empty_index(path: Path) -> None:
    write_index(path, {})


def extra_shard(path: Path) -> None:
    save_file({"other.weight": torch.zeros(3)}, path / "model-00009-of-00009.safetensors")


def leftover_shards(path: Path) -> None:
    """Both kinds are here, and the single file is what `transformers` loads."""
    save_file({"model.norm.weight": torch.full((32,), 7.0)}, path / "model-00001-of-00001.safetensors")
    write_index(path, {"model.norm.weight": "model-00001-of-00001.safetensors"})


@pytest.mark.parametrize(
    "stale", [leftover, damaged_leftover, empty_index, extra_shard, leftover_shards], ids=lambda case: case.__name__
)
def test_a_whole_file_counts_whatever_else_lies_beside_it(saved: Path, stale: Callable[[Path], None]) -> None:
    before = load_file(saved / "model.safetensors")
    stale(saved)
    weights = open_directory(saved)
    assert weights.names() == before.keys()
    assert all(torch.equal(weights.read(name), tensor) for name, tensor in before.items())
    assert {entry.name for entry in build_manifest(saved).tensors} == before.keys()


def wrong_sizes(path: Path) -> None:
    write_index(path, index_of(path), metadata={"total_size": -1, "total_parameters": "many"})


def wrong_file_for_a_tensor(path: Path) -> None:
    shards = sorted(set(index_of(path).values()))
    write_index(path, dict(zip(index_of(path), shards * 99, strict=False)) | dict.fromkeys(["x"], shards[0]))


def forgotten_tensor(path: Path) -> None:
    names = index_of(path)
    names.pop("model.layers.1.mlp.up_proj.weight")
    assert len(set(names.values())) == len(set(index_of(path).values()))
    write_index(path, names)


@pytest.mark.parametrize(
    "wrong", [wrong_sizes, wrong_file_for_a_tensor, forgotten_tensor, extra_shard], ids=lambda case: case.__name__
)
def test_of_an_index_only_the_list_of_files_counts(tmp_path: Path, wrong: Callable[[Path], None]) -> None:
    whole = open_directory(sharded(tmp_path))
    before = {name: whole.read(name) for name in index_of(tmp_path)}
    wrong(tmp_path)
    weights = open_directory(tmp_path)
    assert weights.names() == before.keys()
    assert all(torch.equal(weights.read(name), tensor) for name, tensor in before.items())


def test_a_file_that_an_index_lists_and_that_is_not_here_is_named(tmp_path: Path) -> None:
    shard = index_of(sharded(tmp_path))["lm_head.weight"]
    (tmp_path / shard).unlink()
    with pytest.raises(WeightsInvalid, match=rf"{shard} is missing, which .*index\.json lists; download"):
        build_manifest(tmp_path)


def test_a_part_of_a_tensor_is_read_from_where_it_lies(tmp_path: Path) -> None:
    whole = torch.arange(5 * 6 * 4, dtype=torch.float32).view(5, 6, 4)
    (tmp_path / "config.json").write_text("{}")
    save_file({"w": whole}, tmp_path / "model.safetensors")
    weights = open_directory(tmp_path)
    assert torch.equal(weights.read_part("w", 0, ((1, 3),)), whole[1:3])
    assert torch.equal(weights.read_part("w", 1, ((0, 2), (4, 6))), torch.cat([whole[:, :2], whole[:, 4:]], 1))
    assert torch.equal(weights.read_part("w", 2, ((3, 4),)), whole[..., 3:])
    with pytest.raises(WeightsInvalid, match="smaller than config"):
        weights.read_part("w", 0, ((4, 6),))
