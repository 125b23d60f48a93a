"""Whatever a head hands out, a worker answers `LoadFailed` with a reason and goes on living."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from muster.errors import DoesNotFit
from muster.model.blobs import Manifest, TensorEntry
from muster.model.shape import shape_of
from muster.node.loading import StageLoader, Wish, _Use
from muster.node.runners.serve.kind import needed_bytes
from muster.node.stage_cache import StageKey
from muster.spec.pool import Device
from muster.wire.messages.membership import Heartbeat
from muster.wire.messages.placement import LoadFailed
from tests.node.hostile_head import MEMORY_BYTES, HostileHead, assignment

pytestmark = pytest.mark.anyio

LLAMA = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 32,
    "max_position_embeddings": 64,
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSTER_CACHE", str(tmp_path / "verdicts"))


def manifest(tensors: tuple[TensorEntry, ...] = (), **config: Any) -> bytes:
    return Manifest("m", json.dumps(LLAMA | config), (), tensors).to_bytes()


MANIFESTS = {
    "no manifest": b"\x80\x04K\x01.",
    "a manifest of another shape": b'{"model": 1}',
    "a million layers": manifest(num_hidden_layers=10**6),
    "no layers": manifest(num_hidden_layers=0),
    "a vocabulary of terabytes": manifest(vocab_size=10**12),
    "a vocabulary beyond counting": manifest(vocab_size=10**19),
    "heads of terabytes": manifest(head_dim=10**12),
    "no heads": manifest(num_attention_heads=0),
    "text for a size": manifest(hidden_size="os.system('true')"),
    "code that comes with the model": manifest(model_type="evil", auto_map={"AutoConfig": "evil.py"}),
    "more layers than the placement": manifest(num_hidden_layers=3),
    "no weights": manifest(),
    "a file name for a digest": Manifest(
        "m", json.dumps(LLAMA), (), (TensorEntry("x", "F32", (1,), 4, "../../../etc/passwd"),)
    ).to_bytes(),
    "a commit that is none": Manifest("o/m", json.dumps(LLAMA), (), (), revision="main?x=/../..").to_bytes(),
    "a place on the hub that is none": Manifest("https://x/y", json.dumps(LLAMA), (), (), revision="0" * 40).to_bytes(),
    "a shape beyond its size": Manifest(
        "m", json.dumps(LLAMA), (), (TensorEntry("x", "F32", (2**40, 2**40), 4, "0" * 64),)
    ).to_bytes(),
}


@pytest.mark.parametrize("hostile", MANIFESTS.values(), ids=MANIFESTS.keys())
async def test_a_model_that_makes_no_sense_is_refused_and_the_worker_goes_on(hostile: bytes, tmp_path: Path) -> None:
    async with HostileHead(tmp_path / "node") as head:
        await head.assign(hostile)
        failed = await head.hears(LoadFailed)
        assert failed.code != "internal_error", failed.reason
        await head.hears(Heartbeat)


async def test_a_manifest_larger_than_its_model_fills_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = TensorEntry("model.norm.weight", "F32", (2**30,), 2**32, "f" * 64)
    monkeypatch.setattr("muster.node.loading.tensor_names", lambda *arguments: ["model.norm.weight"])
    async with HostileHead(tmp_path / "node") as head:
        await head.assign(manifest((large,)))
        assert "contradicts the model's config.json" in (await head.hears(LoadFailed)).reason


def test_all_placements_together_stay_below_what_the_owner_lends(tmp_path: Path) -> None:
    shape = shape_of(json.dumps(LLAMA), "m", "float32")
    loader = StageLoader(tmp_path, torch.device("cpu"), Device("cpu", "lent", MEMORY_BYTES))
    assign = assignment(b"", num_pages=MEMORY_BYTES // 2 // 16 // shape.cache_bytes_per_token(0, 2))
    wish: Wish[Any] = Wish(
        assign, lambda shape: needed_bytes(assign, shape), lambda shape: 0, lambda stage, shape: None
    )
    needed = loader._check_fits(wish, shape)
    assert MEMORY_BYTES // 2 < needed < MEMORY_BYTES
    loader._uses[1] = [_Use(StageKey("", 0, 2, "float32"), needed, 0)]
    with pytest.raises(DoesNotFit, match="beside"):
        loader._check_fits(wish, shape)
    loader._uses.clear()
    loader._check_fits(wish, shape)


LIES = {
    "another blob": {"digest": "f" * 64},
    "another offset": {"offset": 1},
    "terabytes to come": {"total_bytes": 2**50},
    "nothing": {"data": b""},
    "more than the blob": {"data": bytes(10**6)},
    "other bytes": {"data": b"x" * 10, "total_bytes": 10},
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
async def test_bytes_that_were_not_asked_for_are_refused_and_forgotten(lie: dict[str, Any], tmp_path: Path) -> None:
    async with HostileHead(tmp_path / "node") as head:
        head.lie = lie
        await head.assign(manifest(num_hidden_layers=3))
        failed = await head.hears(LoadFailed)
        assert failed.code in ("protocol_violation", "weights_invalid")
        head.lie = {}
        await head.assign(manifest(num_hidden_layers=3), epoch=2)
        assert "covers 2 layers but the model has 3" in (await head.hears(LoadFailed)).reason


async def test_what_nobody_foresaw_while_loading_is_reported_and_the_worker_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any) -> None:
        raise KeyError("rope")

    monkeypatch.setattr("muster.node.loading.shape_of", broken)
    async with HostileHead(tmp_path / "node") as head:
        await head.assign(manifest())
        failed = await head.hears(LoadFailed)
        assert "KeyError('rope')" in failed.reason
        await head.hears(Heartbeat)
