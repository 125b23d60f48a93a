"""Weights that travel arrive whole, go on where they stopped, and are what the manifest says."""

import errno
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from muster.errors import MachineTrouble, ProtocolViolation, WeightsInvalid
from muster.model.blobs import BlobStore, DirectoryBlobs, Manifest, build_manifest, matching_directory
from muster.model.rehearsal import largest_difference, sequences
from muster.model.shape import tensor_names
from muster.model.stage import build_stage
from tests.model.families import CPU, LAYERS, VOCAB, dense_model, save


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSTER_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    save(dense_model("qwen3-moe"), path)
    (path / "tokenizer.json").write_text("{}")
    return path


def fetch(digest: str, blobs: DirectoryBlobs, store: BlobStore, chunk: int = 1000) -> None:
    size = blobs.size(digest)
    assert size is not None
    while (start := store.partial_size(digest)) < size:
        store.write_range(digest, start, blobs.read_range(digest, start, chunk))
    store.finish(digest)


def test_a_stage_built_from_fetched_blobs_is_exact_and_fetches_only_its_own(saved: Path, tmp_path: Path) -> None:
    model = dense_model("qwen3-moe")
    manifest = Manifest.from_bytes(build_manifest(saved).to_bytes())
    blobs = DirectoryBlobs(saved, manifest)
    stages = []
    for first, last in [(0, 2), (2, LAYERS)]:
        store = BlobStore(tmp_path / f"store{first}")
        weights = store.open(manifest)
        names = set(tensor_names(weights, first, last))
        for entry in manifest.tensors:
            if entry.name in names:
                fetch(entry.digest, blobs, store)
        stages.append(build_stage(weights, first, last, torch.float32, CPU))
    assert largest_difference(model, stages, sequences(VOCAB)) < 1e-5


def test_the_manifest_itself_and_the_tokenizer_can_be_fetched(saved: Path, tmp_path: Path) -> None:
    manifest = build_manifest(saved, "someone/model")
    blobs, store = DirectoryBlobs(saved, manifest), BlobStore(tmp_path / "store")
    fetch(manifest.digest, blobs, store)
    assert Manifest.from_bytes(store.read(manifest.digest)) == manifest
    assert manifest.model == "someone/model"
    (tokenizer,) = [entry for entry in manifest.tokenizer_files if entry.name == "tokenizer.json"]
    fetch(tokenizer.digest, blobs, store)
    assert store.read(tokenizer.digest) == b"{}"


def test_a_digest_is_remembered_until_the_file_changes(saved: Path) -> None:
    first = build_manifest(saved)
    assert build_manifest(saved) == first
    save(dense_model("qwen3"), saved)
    assert build_manifest(saved).tensors != first.tensors


def test_an_interrupted_blob_goes_on_where_it_stopped(tmp_path: Path) -> None:
    data = bytes(range(200))
    digest = blake3(data).hexdigest()
    BlobStore(tmp_path).write_range(digest, 0, data[:120])
    store = BlobStore(tmp_path)
    assert (store.partial_size(digest), store.has(digest)) == (120, False)
    with pytest.raises(ProtocolViolation, match="instead of 120"):
        store.write_range(digest, 100, data[100:])
    store.write_range(digest, 120, data[120:])
    store.finish(digest)
    assert store.read(digest) == data


def test_a_blob_with_the_wrong_digest_is_forgotten(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    digest = blake3(b"right").hexdigest()
    store.write_range(digest, 0, b"wrong")
    with pytest.raises(WeightsInvalid, match="damaged; fetch it again"):
        store.finish(digest)
    assert (store.partial_size(digest), store.has(digest)) == (0, False)


def test_an_empty_blob_is_a_blob(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    store.finish(blake3(b"").hexdigest())
    assert store.read(blake3(b"").hexdigest()) == b""


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "A" * 64, "a" * 63, "/" + "a" * 63])
def test_only_a_digest_becomes_a_file_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ProtocolViolation, match="not a BLAKE3 digest"):
        BlobStore(tmp_path).write_range(name, 0, b"x")


def test_a_full_disk_is_the_machines_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = BlobStore(tmp_path)

    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(MachineTrouble, match="No space left on device"):
        store.write_range(blake3(b"x").hexdigest(), 0, b"x")


def test_ranges_are_cut_at_the_end_of_the_blob(saved: Path) -> None:
    manifest = build_manifest(saved)
    blobs = DirectoryBlobs(saved, manifest)
    entry = manifest.tensors[0]
    whole = blobs.read_range(entry.digest, 0, 2**40)
    assert blake3(whole).hexdigest() == entry.digest
    assert blobs.read_range(entry.digest, 10, 20) == whole[10:30]
    assert blobs.read_range(entry.digest, entry.nbytes + 5, 10) == b""
    assert blobs.read_range(entry.digest, -5, 3) == b""
    assert blobs.size("f" * 64) is None


def test_a_local_copy_is_used_only_if_its_bytes_are_those_of_the_manifest(saved: Path) -> None:
    manifest = build_manifest(saved)
    names = [entry.name for entry in manifest.tensors]
    local = matching_directory(str(saved), manifest, names)
    assert local is not None
    assert local.names() == set(names)
    assert matching_directory("someone/absent", manifest, names) is None
    assert matching_directory(str(saved), manifest, [*names, "another"]) is None
    save(dense_model("llama"), saved)
    assert matching_directory(str(saved), manifest, names) is None
    (saved / "model.safetensors").write_bytes(b"broken")
    assert matching_directory(str(saved), manifest, names) is None


@pytest.mark.parametrize(
    "change",
    [
        {"nbytes": 3},
        {"nbytes": -1},
        {"dtype": "F4"},
        {"shape": [-1, -8]},
        {"shape": [2**62, 2**62]},
        {"digest": "../x"},
        {"extra": 1},
        {"name": 3},
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(saved: Path, change: dict[str, Any]) -> None:
    fields = msgspec.json.decode(build_manifest(saved).to_bytes())
    fields["tensors"][0] |= change
    with pytest.raises(ProtocolViolation):
        Manifest.from_bytes(msgspec.json.encode(fields))


def test_a_manifest_cannot_name_files_outside_the_tokenizer(saved: Path) -> None:
    fields = msgspec.json.decode(build_manifest(saved).to_bytes())
    fields["tokenizer_files"] = [{"name": "../../.ssh/config", "nbytes": 1, "digest": "0" * 64}]
    with pytest.raises(ProtocolViolation):
        Manifest.from_bytes(msgspec.json.encode(fields))


@given(st.binary(max_size=100))
def test_no_bytes_crash_the_manifest(data: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        Manifest.from_bytes(data)


def test_a_tensor_that_was_not_fetched_is_named(saved: Path, tmp_path: Path) -> None:
    weights = BlobStore(tmp_path / "store").open(build_manifest(saved))
    with pytest.raises(WeightsInvalid, match=r"model\.norm\.weight has not been fetched"):
        weights.read("model.norm.weight")
    with pytest.raises(WeightsInvalid, match="missing from the model"):
        weights.read("nothing")
