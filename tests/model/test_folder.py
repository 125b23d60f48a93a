"""What lies in a model's folder may be anybody's: links that lead out, pipes, devices and endless files are refused."""

import json
import os
import socket
import tracemalloc
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest

from muster.cost.config_fields import MAX_CONFIG_BYTES
from muster.cost.from_config import shape_from_config
from muster.errors import WeightsInvalid
from muster.model.architecture import parse_config
from muster.model.blobs import DirectoryBlobs, build_manifest
from muster.model.folder import open_inside
from muster.model.source import resolve
from muster.model.tensor_file import MAX_HEADER_BYTES, read_header
from muster.model.weights import open_directory
from tests.model.families import dense_model, save

SECRET = b"the owner's diary"
NESTED = 200_000


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = save(dense_model("llama"), tmp_path / "model")
    (path / "vocab.txt").write_text("a\nb\n")
    return path


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "diary").write_bytes(SECRET)
    return tmp_path / "secret" / "diary"


def link(path: Path, secret: Path) -> None:
    path.symlink_to(secret)


def relative_link(path: Path, secret: Path) -> None:
    path.symlink_to(os.path.relpath(secret, path.parent))


def chain_of_links(path: Path, secret: Path) -> None:
    (path.parent / "between").symlink_to(secret)
    path.symlink_to("between")


def link_through_a_folder(path: Path, secret: Path) -> None:
    (path.parent / "folder").symlink_to(secret.parent)
    path.symlink_to("folder/diary")


def pipe(path: Path, secret: Path) -> None:
    os.mkfifo(path)


def endless_device(path: Path, secret: Path) -> None:
    path.symlink_to("/dev/zero")


def folder(path: Path, secret: Path) -> None:
    path.mkdir()


def listening_socket(path: Path, secret: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's path must be short
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)


def loop_of_links(path: Path, secret: Path) -> None:
    path.symlink_to(path.name)


HOSTILE = [
    link,
    relative_link,
    chain_of_links,
    link_through_a_folder,
    pipe,
    endless_device,
    folder,
    listening_socket,
    loop_of_links,
]


@pytest.mark.timeout(20)
@pytest.mark.filterwarnings("ignore:unclosed <socket")
@pytest.mark.parametrize("name", ["vocab.txt", "config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("hostile", HOSTILE)
def test_nothing_but_ordinary_files_of_the_folder_is_opened(
    saved: Path, secret: Path, hostile: Callable[[Path, Path], None], name: str
) -> None:
    (saved / name).unlink(missing_ok=True)
    hostile(saved / name, secret)
    with pytest.raises(WeightsInvalid, match=r"leads out of the model's folder|cannot be read"):
        open_inside(saved, name)
    try:
        manifest = build_manifest(resolve(str(saved)))
    except WeightsInvalid:
        return
    assert hostile is loop_of_links, "which is no file, and so not among what is described"
    assert name not in {file.name for file in manifest.tokenizer_files}


@pytest.mark.parametrize("name", ["..", ".", "../secret/diary", "sub/../../secret/diary", "a\0b", "\ud800", "x" * 300])
def test_no_name_leads_out_of_the_folder(saved: Path, secret: Path, name: str) -> None:
    with pytest.raises(WeightsInvalid):
        open_inside(saved, name)
    with pytest.raises(WeightsInvalid):
        open_inside(saved, str(secret))
    if name != "\ud800":
        (saved / "model.safetensors").rename(saved / "model-00001-of-00001.safetensors")
        (saved / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"lm_head.weight": name}}))
        with pytest.raises(WeightsInvalid):
            open_directory(saved).read("lm_head.weight")


def test_links_within_the_folder_and_to_the_folder_are_followed(saved: Path, tmp_path: Path) -> None:
    (saved / "model.safetensors").rename(saved / "weights.bin")
    (saved / "model.safetensors").symlink_to("weights.bin")
    (tmp_path / "shortcut").symlink_to(saved)
    assert open_directory(resolve(str(tmp_path / "shortcut"))).read("lm_head.weight").numel()


def cached(saved: Path, root: Path) -> Path:
    """The folder as the hub's cache lays it out."""
    snapshot = root / "models--someone--small" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    blobs = snapshot.parent.parent / "blobs"
    blobs.mkdir()
    for number, file in enumerate(sorted(saved.iterdir())):
        file.rename(blobs / f"{number:040x}")
        (snapshot / file.name).symlink_to(f"../../blobs/{number:040x}")
    return snapshot


def test_the_hubs_cache_is_read_as_it_is_laid_out(saved: Path, tmp_path: Path) -> None:
    manifest = build_manifest(resolve(str(cached(saved, tmp_path / "hub"))))
    assert manifest.tensors
    assert [file.name for file in manifest.tokenizer_files] == ["generation_config.json", "vocab.txt"]


@pytest.mark.parametrize("to", ["../../../../secret/diary", "../../blobs/../../../secret/diary", "../../blobs/out"])
def test_the_layout_of_the_hubs_cache_is_no_way_out(saved: Path, secret: Path, tmp_path: Path, to: str) -> None:
    snapshot = cached(saved, tmp_path / "hub")
    (snapshot / "../../blobs/out").symlink_to(secret)
    (snapshot / "vocab.txt").unlink()
    (snapshot / "vocab.txt").symlink_to(to)
    assert (snapshot / "vocab.txt").read_bytes() == SECRET
    with pytest.raises(WeightsInvalid, match="leads out"):
        resolve(str(snapshot))
    with pytest.raises(WeightsInvalid, match="leads out"):
        build_manifest(snapshot)


def test_a_file_that_becomes_a_link_later_is_not_served(saved: Path, secret: Path) -> None:
    manifest = build_manifest(saved)
    blobs = DirectoryBlobs(saved, manifest)
    (entry,) = [file for file in manifest.tokenizer_files if file.name == "vocab.txt"]
    assert blobs.read_range(entry.digest, 2, 100) == b"b\n"
    (saved / "vocab.txt").unlink()
    (saved / "vocab.txt").symlink_to(secret)
    with pytest.raises(WeightsInvalid, match="leads out"):
        blobs.read_range(entry.digest, 0, 100)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors.index.json"])
def test_an_endless_file_is_not_read(saved: Path, name: str) -> None:
    if "index" in name:
        (saved / "model.safetensors").rename(saved / "model-00001-of-00001.safetensors")
    with (saved / name).open("w") as file:
        file.truncate(2**30)
    with pytest.raises(WeightsInvalid, match=r"has more than \d+ MiB"):
        open_directory(resolve(str(saved)))


CONFIGS = {
    "deep": '{"model_type": "llama", "a": ' + "[" * NESTED + "]" * NESTED + "}",
    "deep objects": '{"a":' * NESTED + "1" + "}" * NESTED,
    "large": '{"model_type": "llama", "a": "' + "x" * MAX_CONFIG_BYTES + '"}',
    "a list": "[]",
    "a word": '"llama"',
    "nothing": "",
    "no type": "{}",
    "a number for a type": '{"model_type": 3}',
    "a list for a type": '{"model_type": ["llama"]}',
    "an endless number": '{"model_type": "llama", "vocab_size": ' + "9" * 100_000 + "}",
}


@pytest.mark.parametrize("read", [parse_config, lambda text: shape_from_config(text, "m")], ids=["serve", "plan"])
@pytest.mark.parametrize("config", list(CONFIGS))
def test_a_config_that_is_none_is_refused_by_whoever_reads_it(config: str, read: Callable[[str], object]) -> None:
    with pytest.raises(WeightsInvalid, match=r"config\.json"):
        read(CONFIGS[config])


def entry(start: int, stop: int, shape: object = None, **more: object) -> dict[str, object]:
    return {"dtype": "U8", "shape": [stop - start] if shape is None else shape, "data_offsets": [start, stop], **more}


HEADERS: dict[str, object] = {
    "overlapping": {"a": entry(0, 8), "b": entry(4, 12)},
    "one within another": {"a": entry(0, 16), "b": entry(4, 8)},
    "twice the same bytes": {"a": entry(0, 8), "b": entry(0, 8)},
    "negative start": {"a": entry(-8, 0)},
    "stop before start": {"a": entry(8, 4, [])},
    "beyond the file": {"a": entry(0, 10**6)},
    "beyond all files": {"a": entry(2**70, 2**70 + 8)},
    "negative size": {"a": entry(0, 8, [-8])},
    "endless size": {"a": entry(0, 8, [2**80])},
    "endless product": {"a": entry(0, 8, [2**60] * 16)},
    "too many dimensions": {"a": entry(0, 1, [1] * 1000)},
    "words for numbers": {"a": {"dtype": "U8", "shape": ["8"], "data_offsets": [0, 8]}},
    "three offsets": {"a": {"dtype": "U8", "shape": [8], "data_offsets": [0, 8, 8]}},
    "no dtype": {"a": {"shape": [8], "data_offsets": [0, 8]}},
    "a list for a tensor": {"a": []},
}


@pytest.mark.parametrize("header", list(HEADERS))
def test_a_header_that_contradicts_itself_or_the_file_is_refused(header: str) -> None:
    text = json.dumps(HEADERS[header]).encode()
    data = len(text).to_bytes(8, "little") + text + bytes(64)
    with pytest.raises(WeightsInvalid, match="is damaged"):
        read_header(BytesIO(data), len(data), "m.safetensors")


def test_tensors_side_by_side_and_empty_ones_are_read() -> None:
    described = {
        "__metadata__": {"format": "pt"},
        "b": entry(8, 12),
        "a": entry(0, 8),
        "none": entry(4, 4),
        "c": entry(12, 12),
    }
    text = json.dumps(described).encode()
    data = len(text).to_bytes(8, "little") + text + bytes(12)
    spans = read_header(BytesIO(data), len(data), "m.safetensors")
    assert {name: span.stop - span.start for name, span in spans.items()} == {"a": 8, "b": 4, "none": 0, "c": 0}


SIZE = 6 * 2**20
LARGE = {
    "lists": lambda: b'{"a":[' + b"[]," * (SIZE // 3) + b"[]]}",
    "objects": lambda: b'{"a":[' + b"{}," * (SIZE // 3) + b"{}]}",
    "tensors": lambda: b"{" + b",".join(b'"%d":{}' % i for i in range(SIZE // 12)) + b"}",
    "a shape": lambda: b'{"a":{"dtype":"U8","data_offsets":[0,0],"shape":[' + b"0," * (SIZE // 2) + b"0]}}",
    "nested": lambda: b'{"a":' + b"[" * (SIZE // 2) + b"]" * (SIZE // 2) + b"}",
    "metadata": lambda: b'{"__metadata__":[' + b"[]," * (SIZE // 3) + b'[]],"a":3}',
}


@pytest.mark.parametrize("kind", list(LARGE))
def test_a_large_header_costs_a_few_times_its_own_size_at_most(kind: str) -> None:
    text = LARGE[kind]()
    data = BytesIO(len(text).to_bytes(8, "little") + text)
    tracemalloc.start()
    try:
        with pytest.raises(WeightsInvalid, match="is damaged"):
            read_header(data, len(text) + 8, "m.safetensors")
        assert tracemalloc.get_traced_memory()[1] < 8 * len(text)
    finally:
        tracemalloc.stop()


def test_a_header_beyond_the_limit_is_not_even_read() -> None:
    size = MAX_HEADER_BYTES + 1
    data = BytesIO(size.to_bytes(8, "little"))
    with pytest.raises(WeightsInvalid, match="is damaged"):
        read_header(data, 2 * size, "m.safetensors")
    assert data.tell() == 8
