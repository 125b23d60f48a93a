"""A model that was checked before is known without torch."""

import subprocess
import sys
from pathlib import Path

import pytest

from muster.disk import cache_directory
from muster.errors import UnsupportedModel
from muster.model.blobs import build_manifest
from muster.model.checked import checked_shape, described
from muster.model.shape import shape_of
from muster.model.source import resolve
from muster.model.weights import open_directory


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSTER_CACHE", str(tmp_path))


def test_it_is_the_shape_read_off_the_modules_the_first_time_and_again() -> None:
    weights = open_directory(resolve("tiny"))
    read_off = shape_of(weights.config_json, "tiny", "bfloat16")
    assert checked_shape(weights.config_json, described(weights), "tiny", "bfloat16") == read_off
    assert checked_shape(weights.config_json, described(weights), "tiny", "bfloat16") == read_off
    assert checked_shape(weights.config_json, described(weights), "tiny", "float32").dtype == "float32"


def test_whoever_asks_again_loads_no_torch() -> None:
    weights = open_directory(resolve("tiny"))
    checked_shape(weights.config_json, described(weights), "tiny", "float32")
    build_manifest(resolve("tiny"))
    code = """
import sys
from muster.model.blobs import DirectoryBlobs, build_manifest
from muster.model.checked import checked_shape, described
from muster.model.source import resolve
from muster.model.weights import open_directory
path = resolve("tiny")
weights = open_directory(path)
shape = checked_shape(weights.config_json, described(weights), "tiny", "float32")
manifest = build_manifest(path)
read = DirectoryBlobs(path, manifest).read_range(manifest.tensors[0].digest, 0, 10)
sys.exit(f"{shape.num_layers} {len(read)} {'torch' in sys.modules}")
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.stderr.split() == ["6", "10", "False"]


def test_a_damaged_record_costs_time_and_nothing_else() -> None:
    weights = open_directory(resolve("tiny"))
    shape = checked_shape(weights.config_json, described(weights), "tiny", "float32")
    (record,) = (cache_directory() / "shapes").iterdir()
    record.write_bytes(record.read_bytes()[:-20])
    assert checked_shape(weights.config_json, described(weights), "tiny", "float32") == shape


def test_a_refusal_is_not_kept_as_a_shape() -> None:
    weights = open_directory(resolve("tiny"))
    for _ in range(2):
        with pytest.raises(UnsupportedModel, match="dtype 'float8'"):
            checked_shape(weights.config_json, described(weights), "tiny", "float8")
