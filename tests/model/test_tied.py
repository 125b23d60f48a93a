"""A matrix that is embedding and output projection at once is held, counted and read once where one stage has both."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from muster.cost.from_config import shape_from_config
from muster.model.blobs import BlobStore, DirectoryBlobs, build_manifest
from muster.model.rehearsal import largest_difference, sequences
from muster.model.shape import check_tensors, shape_of, tensor_names
from muster.model.stage import Stage, build_stage
from muster.model.weights import Weights, open_directory
from muster.spec.model_shape import ModelShape
from tests.model.families import CPU, FAMILIES, LAYERS, VOCAB, dense_model, save


def held_bytes(stage: Stage) -> int:
    """Of memory, whoever shares it; packed matrices leave their shape behind."""
    tensors = [tensor for tensor in stage._model.state_dict(keep_vars=True).values() if not tensor.is_meta]
    memory = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(memory.values())


def configured(family: str, tied: bool) -> str:
    return json.dumps(json.loads(FAMILIES[family]().to_json_string()) | {"tie_word_embeddings": tied})


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_both_books_count_a_tied_matrix_once(family: str, tied: bool) -> None:
    config = configured(family, tied)
    read, counted = shape_from_config(config, "m", "bfloat16"), shape_of(config, "m", "bfloat16")
    assert (read.tied_bytes > 0) == tied
    for first, last in [(0, LAYERS), *pairwise(range(LAYERS + 1))]:
        assert read.weight_bytes(first, last) == counted.weight_bytes(first, last)
        assert read.read_bytes(first, last) == counted.read_bytes(first, last)
    apart = read.weight_bytes(0, 1) + read.weight_bytes(1, LAYERS)
    assert apart - read.weight_bytes(0, LAYERS) == read.tied_bytes
    assert read.weight_bytes(0, LAYERS) - read.read_bytes(0, LAYERS) == read.embedding_bytes - read.tied_bytes


@pytest.mark.parametrize("family", ["llama-tied", "gpt2", "gemma2", "opt", "opt-projected"])
def test_a_stage_holds_what_the_books_say(family: str, tmp_path: Path) -> None:
    weights = open_directory(save(dense_model(family), tmp_path))
    shape = shape_of(weights.config_json, "m", "float32")
    assert shape.tied_bytes
    for first, last in [(0, LAYERS), (0, 1), (1, 2), (2, LAYERS)]:
        assert held_bytes(build_stage(weights, first, last, torch.float32, CPU)) == shape.weight_bytes(first, last)


def saved_twice(path: Path, differ: bool) -> Path:
    """A tied model whose checkpoint holds the output projection as well."""
    save(dense_model("llama-tied"), path)
    tensors = load_file(path / "model.safetensors")
    own = tensors["model.embed_tokens.weight"].clone()
    if differ:
        own[:, 0] += 1
    save_file(tensors | {"lm_head.weight": own}, path / "model.safetensors", {"format": "pt"})
    return path


def stored(path: Path, root: Path) -> Weights:
    """The same, as a worker has fetched it."""
    manifest, store = build_manifest(path), BlobStore(root)
    blobs = DirectoryBlobs(path, manifest)
    for entry in manifest.tensors:
        store.write_range(entry.digest, store.partial_size(entry.digest), blobs.read_range(entry.digest, 0, 2**30))
        store.finish(entry.digest)
    return store.open(manifest)


def shape_for_machines(path: Path) -> ModelShape:
    return shape_of(build_manifest(path).config_json, "m", "float32")


def test_a_tied_matrix_that_the_checkpoint_holds_twice_is_loaded_once(tmp_path: Path) -> None:
    path = saved_twice(tmp_path / "model", differ=False)
    for weights in (open_directory(path), stored(path, tmp_path / "store")):
        stage = build_stage(weights, 0, LAYERS, torch.float32, CPU)
        assert held_bytes(stage) == shape_for_machines(path).weight_bytes(0, LAYERS)
        assert "lm_head.weight" not in tensor_names(weights, 0, LAYERS)
        assert "lm_head.weight" not in tensor_names(weights, 2, LAYERS)


def test_two_different_matrices_are_kept_apart_whatever_the_configuration_says(tmp_path: Path) -> None:
    path = saved_twice(tmp_path / "model", differ=True)
    reference = AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager", dtype=torch.float32).eval()
    assert reference.lm_head.weight.data_ptr() != reference.model.embed_tokens.weight.data_ptr()
    shape = shape_for_machines(path)
    assert shape.tied_bytes == 0
    for weights in (open_directory(path), stored(path, tmp_path / "store")):
        for cuts in ([0, LAYERS], [0, 1, LAYERS]):
            stages = [build_stage(weights, *cut, torch.float32, CPU) for cut in pairwise(cuts)]
            assert largest_difference(reference, stages, sequences(VOCAB)) < 1e-5
        assert held_bytes(build_stage(weights, 0, LAYERS, torch.float32, CPU)) == shape.weight_bytes(0, LAYERS)
    manifest = build_manifest(path)
    check_tensors(manifest.config_json, {tensor.name: (tensor.dtype, tensor.shape) for tensor in manifest.tensors})
