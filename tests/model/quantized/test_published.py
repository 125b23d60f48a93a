"""Published checkpoints in few bits give the logits of `transformers` on what their codes stand for."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from muster.cost.from_config import shape_from_config
from muster.cost.published import published_of
from muster.errors import InvalidRequest, UnsupportedModel, WeightsInvalid
from muster.model.blobs import BlobStore, build_manifest
from muster.model.checked import described
from muster.model.rehearsal import run_stages, sequences
from muster.model.shape import check_tensors, shape_of, tensor_names
from muster.model.stage import build_stage
from muster.model.trainable import build_trainable
from muster.model.weights import open_directory
from muster.spec.few_bits import FewBits
from tests.model.families import CPU, LAYERS, VOCAB
from tests.model.quantized.published import LAYOUTS, publish
from tests.model.quantized.test_layers import held_bytes

CUTS = (0, 1, 2, LAYERS)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_three_stages_give_what_transformers_gives_on_what_the_codes_stand_for(layout: str, tmp_path: Path) -> None:
    model = publish(layout, tmp_path)
    weights = open_directory(tmp_path)
    check_tensors(weights.config_json, described(weights))
    stages = [build_stage(weights, *cut, torch.float32, CPU) for cut in pairwise(CUTS)]
    tokens = sequences(VOCAB)
    found = run_stages(stages, tokens)
    for row, logits in zip(tokens, found, strict=True):
        expected = model(input_ids=row[None], use_cache=False).logits[0].detach()
        assert float((logits - expected).abs().max()) < 1e-4 * float(expected.abs().max())
    shape = shape_of(weights.config_json, "m", "float32")
    read = shape_from_config(weights.config_json, "m", "float32")
    assert (read.layer_bytes, read.head_bytes) == (shape.layer_bytes, shape.head_bytes)
    for stage, cut in zip(stages, pairwise(CUTS), strict=True):
        assert held_bytes(stage) == pytest.approx(shape.weight_bytes(*cut), rel=0.03)


@pytest.mark.parametrize("layout", ["gptq", "ct-w8a8-int", "mxfp4"])
def test_a_stage_reads_only_its_own_tensors_wherever_they_come_from(layout: str, tmp_path: Path) -> None:
    publish(layout, tmp_path / "model")
    manifest, store = build_manifest(tmp_path / "model"), BlobStore(tmp_path / "store")
    weights = store.open(manifest)
    wanted = set(tensor_names(weights, 1, 2))
    assert wanted
    assert all(".layers.1." in name for name in wanted)
    assert any(not name.endswith(".weight") for name in wanted)
    files = open_directory(tmp_path / "model")
    # Of tensors that are the same, such as orders of columns, there is one blob.
    for entry in {entry.digest: entry for entry in manifest.tensors if entry.name in wanted}.values():
        span = files.file(entry.name).spans[entry.name]
        store.write_range(entry.digest, 0, files.file(entry.name).read_range(span.start, span.stop))
        store.finish(entry.digest)
    build_stage(weights, 1, 2, torch.bfloat16, CPU)
    with pytest.raises(WeightsInvalid, match="has not been fetched yet"):
        build_stage(weights, 0, 1, torch.bfloat16, CPU)


def change(folder: Path, name: str, made: Tensor | None) -> None:
    tensors = load_file(folder / "model.safetensors")
    assert name in tensors
    del tensors[name]
    save_file(tensors | ({} if made is None else {name: made}), folder / "model.safetensors", {"format": "pt"})


Q = "model.layers.1.self_attn.q_proj"
HARMED: list[tuple[str, str, Any, str]] = [
    ("gptq", f"{Q}.scales", torch.ones(3, 64).half(), r"scales of shape \(3, 64\) where \(2, 64\) would fit"),
    ("gptq", f"{Q}.qzeros", None, "has no qzeros"),
    ("gptq", f"{Q}.qweight", torch.ones(8, 64), "has qweight as F32 where I32 is read"),
    ("gptq", f"{Q}.g_idx", torch.arange(65, dtype=torch.int32), "g_idx of shape"),
    ("gptq-act-order", f"{Q}.g_idx", torch.zeros(64, dtype=torch.int32), "do not have 32 columns each"),
    ("gptq-act-order", f"{Q}.g_idx", torch.full((64,), -7, dtype=torch.int32), "do not have 32 columns each"),
    ("awq", f"{Q}.qweight", torch.ones(48, 8, dtype=torch.int32), "48 columns, which groups of 32 do not divide"),
    ("ct-w4a16", f"{Q}.weight_shape", torch.tensor([64, 65]), "says another shape of itself"),
    ("ct-w4a16", f"{Q}.weight_packed", torch.ones(64, 16, dtype=torch.int32), "weight_scale of shape"),
    ("ct-w8a8-int", f"{Q}.weight_scale", torch.ones(2, 2), "weight_scale of shape"),
    ("ct-w8a8-fp8", f"{Q}.weight", torch.ones(64, 64).to(torch.float8_e5m2), "as F8_E5M2 where F8_E4M3 is read"),
    ("fp8", f"{Q}.weight_scale_inv", torch.ones(1, 1), "weight_scale_inv of shape"),
    (
        "mxfp4",
        "model.layers.1.mlp.experts.down_proj_scales",
        torch.ones(4, 64, 9, dtype=torch.uint8),
        "scales of shape",
    ),
]


@pytest.mark.parametrize(("layout", "name", "made", "says"), HARMED, ids=lambda one: str(one)[:24])
def test_what_does_not_fit_is_named(layout: str, name: str, made: Tensor | None, says: str, tmp_path: Path) -> None:
    publish(layout, tmp_path)
    change(tmp_path, name, made)
    weights = open_directory(tmp_path)
    with pytest.raises(WeightsInvalid, match=says):
        build_stage(weights, 1, 2, torch.float32, CPU)


def test_a_plain_tensor_where_codes_are_promised_is_named(tmp_path: Path) -> None:
    publish("awq", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    kept = {key: value for key, value in tensors.items() if not key.startswith(Q)}
    save_file(kept | {f"{Q}.weight": torch.ones(64, 64)}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightsInvalid, match=r"config\.json says that .*q_proj\.weight is quantised"):
        build_stage(open_directory(tmp_path), 1, 2, torch.float32, CPU)


CT = LAYOUTS["ct-w4a16"][2]


@pytest.mark.parametrize(
    ("says", "named"),
    [
        ({"quant_method": "bitsandbytes"}, r"\(bitsandbytes\)"),
        ({"bits": 4}, "4 bits, no quant_method"),
        ({"quant_method": "gptq", "bits": 3}, r"gptq .*\(3 bits\)"),
        ({"quant_method": "gptq", "checkpoint_format": "marlin"}, "marlin"),
        ({"quant_method": "gptq", "dynamic": {"+:.*": {"bits": 8}}}, "differ from layer to layer"),
        ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "gemv"),
        (CT | {"format": "nvfp4-pack-quantized"}, "nvfp4-pack-quantized"),
        (CT | {"config_groups": {}}, "several groups"),
        (CT | {"transform_config": {"a": 1}}, "transforms"),
        (CT | {"ignore": ["re:(a+)+$"]}, "pattern"),
        ({"quant_method": "gguf"}, "gguf"),
    ],
)
def test_an_unknown_layout_is_refused_by_name(says: dict[str, Any], named: str) -> None:
    def read() -> None:
        published = published_of({"quantization_config": says})
        assert published is not None
        published.format_of("model.layers.0.a.weight", False)

    with pytest.raises(UnsupportedModel, match=named):
        read()


def test_codes_are_not_made_of_codes_nor_trained(tmp_path: Path) -> None:
    publish("gptq", tmp_path)
    weights = open_directory(tmp_path)
    with pytest.raises(InvalidRequest, match=r"quantised already \(gptq\)"):
        shape_of(weights.config_json, "m", "float32", FewBits(weights="int4"))
    with pytest.raises(UnsupportedModel, match="codes are not trained"):
        build_trainable(weights, 0, 1, torch.float32, CPU)
    assert json.loads(weights.config_json)["quantization_config"]["bits"] == 4
