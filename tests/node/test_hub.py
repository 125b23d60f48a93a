"""A worker that is far from the head takes its weights from the hub; the head is there where the hub does not help."""

import asyncio
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from huggingface_hub import hf_hub_url
from structlog.testing import capture_logs

from muster.model.blobs import BlobStore, DirectoryBlobs, Manifest, build_manifest
from muster.model.weights import open_directory
from muster.node import hub
from muster.node.hub import HubUnusable, fetch_from_hub
from muster.spec.plan import Stage
from muster.wire.messages.placement import Loaded
from tests.model.fake_hub import COMMIT, fake_hub
from tests.model.families import dense_model, save
from tests.node.hostile_head import NODE, HostileHead

pytestmark = pytest.mark.anyio
NAME = "someone/small"
WHOLE = (Stage(NODE, 0, 3),)


@pytest.fixture(autouse=True)
def _far_from_the_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSTER_CACHE", str(tmp_path / "verdicts"))
    monkeypatch.setattr("muster.node.loading.NEAR_S", -1.0)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """In several files."""
    path = save(dense_model("llama"), tmp_path / "model", shard_bytes=30_000)
    assert len(list(path.glob("*.safetensors"))) > 1
    return path


@contextmanager
def hub_with(path: Path, monkeypatch: pytest.MonkeyPatch, gated: bool = False) -> Iterator[list[str]]:
    with fake_hub({NAME: path}, gated) as (endpoint, asked):
        monkeypatch.setattr(hub, "hf_hub_url", partial(hf_hub_url, endpoint=endpoint))
        yield asked


def described(path: Path) -> Manifest:
    return build_manifest(path, NAME, COMMIT)


def weight_bytes(manifest: Manifest) -> int:
    return sum(entry.nbytes for entry in {entry.digest: entry for entry in manifest.tensors}.values())


def give(head: HostileHead, path: Path, manifest: Manifest) -> None:
    blobs = DirectoryBlobs(path, manifest)
    head.blobs |= {entry.digest: blobs.read_range(entry.digest, 0, entry.nbytes) for entry in manifest.tensors}


def bytes_of(asked: list[str]) -> int:
    ranges = [re.fullmatch(r".* (\d+)-(\d+)", line) for line in asked]
    return sum(int(found[2]) - int(found[1]) for found in ranges if found)


async def test_only_the_wanted_tensors_cross_the_wire_and_neighbours_together(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "HEADER_BYTES", 64)  # shorter than a header, so that its rest is asked for
    manifest, store, came = described(model), BlobStore(tmp_path / "store"), []
    wanted = [entry for entry in manifest.tensors if ".layers.1." in entry.name]
    with hub_with(model, monkeypatch) as asked:
        await fetch_from_hub(manifest, wanted, store, came.append)
    assert all(store.has(entry.digest) for entry in wanted)
    assert {path.name for path in store.root.iterdir()} == {entry.digest for entry in wanted}
    weights = open_directory(model)
    files = {weights.file(entry.name) for entry in wanted}
    headers = sum(min(span.start for span in file.spans.values()) for file in files)
    assert sum(came) == sum(entry.nbytes for entry in wanted)
    assert bytes_of(asked) == sum(came) + headers
    assert len(asked) - 1 - 2 * len(files) < len(wanted), "beside the index and the headers"


async def test_a_tensor_that_stopped_half_way_goes_on_from_the_hub(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, store, came = described(model), BlobStore(tmp_path / "store"), []
    entry = max(manifest.tensors, key=lambda entry: entry.nbytes)
    start = DirectoryBlobs(model, manifest).read_range(entry.digest, 0, 100)
    store.write_range(entry.digest, 0, start)
    with hub_with(model, monkeypatch):
        await fetch_from_hub(manifest, [entry], store, came.append)
    assert store.has(entry.digest)
    assert sum(came) == entry.nbytes - 100


async def test_a_worker_takes_its_weights_from_the_hub_and_not_from_the_head(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = described(model)
    with hub_with(model, monkeypatch) as asked:
        async with HostileHead(tmp_path / "node") as head:
            give(head, model, manifest)
            await head.assign(manifest.to_bytes(), model=NAME, stages=WHOLE)
            await head.hears(Loaded)
            assert head.given_bytes == 0
            assert bytes_of(asked) > weight_bytes(manifest)
        asked.clear()
        async with HostileHead(tmp_path / "node") as head:  # the worker comes back, and has the blobs
            await head.assign(manifest.to_bytes(), model=NAME, stages=WHOLE)
            await head.hears(Loaded)
            assert (head.given_bytes, asked) == (0, [])


async def test_a_head_that_is_near_gives_the_weights(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("muster.node.loading.NEAR_S", 60.0)
    manifest = described(model)
    with hub_with(model, monkeypatch) as asked:
        async with HostileHead(tmp_path / "node") as head:
            give(head, model, manifest)
            await head.assign(manifest.to_bytes(), model=NAME, stages=WHOLE)
            await head.hears(Loaded)
            assert (head.given_bytes, asked) == (weight_bytes(manifest), [])


@pytest.mark.parametrize("offline", [True, False])
async def test_a_folder_on_the_head_and_offline_mode_do_not_ask_the_hub(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: bool
) -> None:
    manifest = described(model) if offline else build_manifest(model, NAME)
    monkeypatch.setattr("muster.node.loading.is_offline_mode", lambda: offline)
    with hub_with(model, monkeypatch) as asked:
        async with HostileHead(tmp_path / "node") as head:
            give(head, model, manifest)
            await head.assign(manifest.to_bytes(), model=NAME, stages=WHOLE)
            await head.hears(Loaded)
            assert (head.given_bytes, asked) == (weight_bytes(manifest), [])


async def test_the_head_gives_what_the_hub_has_wrong_and_the_hub_is_left_alone_for_a_while(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = described(model)
    damaged = save(dense_model("llama"), tmp_path / "damaged", shard_bytes=30_000)
    for file in damaged.iterdir():
        file.write_bytes((model / file.name).read_bytes())
    last = sorted(damaged.glob("*.safetensors"))[-1]
    last.write_bytes(last.read_bytes()[:-1] + b"\xff")
    with hub_with(damaged, monkeypatch) as asked, capture_logs() as logs:
        async with HostileHead(tmp_path / "node") as head:
            give(head, model, manifest)
            await head.assign(manifest.to_bytes(), model=NAME, stages=WHOLE)
            await head.hears(Loaded)
            assert 0 < head.given_bytes < weight_bytes(manifest), "what came from the hub before stays"
            assert asked
            asked.clear()
            other = save(dense_model("qwen3"), tmp_path / "other")
            give(head, other, described(other))
            await head.assign(described(other).to_bytes(), model=NAME, stages=WHOLE, epoch=2)
            assert (await head.hears(Loaded)).epoch == 2
            assert asked == [], "it has just failed"
    (warning,) = [line for line in logs if line["event"] == "hub.unused"]
    assert warning["reason"] == "what it has there is not what the head serves; the head gives what is missing"


async def test_whatever_is_wrong_with_the_hub_is_said_in_words(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, store = described(model), BlobStore(tmp_path / "store")
    (tmp_path / "empty").mkdir()
    with hub_with(model, monkeypatch, gated=True), pytest.raises(HubUnusable, match="accept the terms"):
        await fetch_from_hub(manifest, manifest.tensors, store)
    with hub_with(tmp_path / "empty", monkeypatch), pytest.raises(HubUnusable, match="status 404"):
        await fetch_from_hub(manifest, manifest.tensors, store)
    other = save(dense_model("qwen3"), tmp_path / "other")
    with hub_with(other, monkeypatch), pytest.raises(HubUnusable, match="no such tensor"):
        await fetch_from_hub(manifest, manifest.tensors, store)
    with pytest.raises(HubUnusable, match="attempts failed"):  # the hub of before is gone
        await fetch_from_hub(manifest, manifest.tensors, store)
    assert list(store.root.iterdir()) == []


async def test_a_hub_that_never_answers_is_given_up(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "ANSWER_S", 0.1)
    manifest = described(model)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr(hub, "hf_hub_url", partial(hf_hub_url, endpoint=endpoint))
        with pytest.raises(HubUnusable, match="less than"):
            async with asyncio.timeout(10):
                await fetch_from_hub(manifest, manifest.tensors, BlobStore(tmp_path / "store"))
