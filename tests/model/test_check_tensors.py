"""What a checkpoint lacks is said before any machine is asked to load it."""

from pathlib import Path

import pytest

from muster.errors import WeightsInvalid
from muster.model.blobs import Manifest, build_manifest
from muster.model.shape import check_tensors
from tests.model.families import FAMILIES, dense_model, save

Tensors = dict[str, tuple[str, tuple[int, ...]]]


def tensors_of(manifest: Manifest) -> Tensors:
    return {tensor.name: (tensor.dtype, tensor.shape) for tensor in manifest.tensors}


@pytest.fixture
def llama(tmp_path: Path) -> Manifest:
    return build_manifest(save(dense_model("llama"), tmp_path))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_whole_checkpoint_of_any_family_passes(family: str, tmp_path: Path) -> None:
    manifest = build_manifest(save(dense_model(family), tmp_path))
    check_tensors(manifest.config_json, tensors_of(manifest))


def test_a_missing_tensor_is_named(llama: Manifest) -> None:
    tensors = tensors_of(llama)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    with pytest.raises(WeightsInvalid, match=r"no tensor for model\.layers\.1\.mlp\.up_proj\.weight"):
        check_tensors(llama.config_json, tensors)


def test_a_wrong_shape_is_named_with_both_shapes(llama: Manifest) -> None:
    tensors = tensors_of(llama)
    tensors["model.norm.weight"] = ("F32", (7,))
    with pytest.raises(WeightsInvalid, match=r"model\.norm\.weight has shape \(7,\) where config\.json says \(32,\)"):
        check_tensors(llama.config_json, tensors)


def test_a_dtype_that_is_not_loaded_is_named(llama: Manifest) -> None:
    tensors = tensors_of(llama)
    tensors["model.norm.weight"] = ("F8_E4M3", (32,))
    with pytest.raises(WeightsInvalid, match=r"F8_E4M3, which Muster does not load"):
        check_tensors(llama.config_json, tensors)
