"""A hub that says what it likes: a worker neither believes it, nor waits for it, nor goes where it points."""

import asyncio
import gzip
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
from huggingface_hub import hf_hub_url

from muster.errors import WeightsInvalid
from muster.model.blobs import BlobStore, Manifest, build_manifest
from muster.model.tensor_file import read_header
from muster.model.weights import INDEX_NAME
from muster.node import hub
from muster.node.hub import HubUnusable, _Door, fetch_from_hub
from tests.model.fake_hub import COMMIT
from tests.model.families import dense_model, save

pytestmark = pytest.mark.anyio
Answer = Callable[[str, str, asyncio.StreamWriter], Awaitable[None]]
"""Path and range of a request, and where to write."""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save(dense_model("llama"), tmp_path / "model")


@asynccontextmanager
async def hub_that(answer: Answer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[str]]:
    asked: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                path, part = line.decode().split()[1], ""
                while (header := await reader.readline()) not in (b"\r\n", b""):
                    if header.lower().startswith(b"range:"):
                        part = header.decode().split("=")[1].strip()
                asked.append(path)
                await answer(path, part, writer)
                await writer.drain()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    monkeypatch.setattr(hub, "hf_hub_url", partial(hf_hub_url, endpoint=endpoint))
    monkeypatch.setattr(hub, "ANSWER_S", 1.0)
    try:
        yield asked
    finally:
        server.close()


def reply(data: bytes, status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(data)}", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + data


def always(data: bytes) -> Answer:
    async def answer(path: str, part: str, writer: asyncio.StreamWriter) -> None:
        writer.write(data)

    return answer


def files(index: bytes | None, file: bytes, size: int | None = None) -> Answer:
    """One index (None: there is none), and one file behind every other path."""

    async def answer(path: str, part: str, writer: asyncio.StreamWriter) -> None:
        if path.endswith(INDEX_NAME):
            writer.write(reply(index) if index is not None else reply(b"", "404 Not Found"))
        else:
            start, stop = (int(end) for end in part.split("-"))
            data = file[start : stop + 1]
            place = f"Content-Range: bytes {start}-{start + len(data) - 1}/{size or len(file)}"
            writer.write(reply(data, "206 Partial Content", place))

    return answer


async def fetch(model: Path, tmp_path: Path) -> tuple[Manifest, BlobStore]:
    manifest, store = build_manifest(model, "someone/small", COMMIT), BlobStore(tmp_path / "store")
    async with asyncio.timeout(20):
        await fetch_from_hub(manifest, manifest.tensors, store)
    return manifest, store


def header(entries: object) -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


def tensor(**changes: object) -> bytes:
    return header({"model.norm.weight": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} | changes})


DEEP = b"[" * 200_000
REDIRECT = "302 Found"


@pytest.mark.parametrize(
    "data",
    [
        reply(b"", REDIRECT, "Location: file:///etc/passwd"),
        reply(b"", REDIRECT, "Location: http://169.254.169.254/latest/meta-data/"),
        reply(b"", REDIRECT, "Location: http://[::ffff:10.0.0.1]/"),
        reply(b"", REDIRECT, "Location: http://localhost:1/"),
        reply(b"", REDIRECT, "Location: http://router/"),
        reply(b"", REDIRECT, "Location: http://[::1"),
        reply(b"", REDIRECT, f"Location: /someone/small/resolve/{COMMIT}/{INDEX_NAME}"),
        reply(DEEP),
        reply(b'{"weight_map": {"a": "../../x.safetensors"}}'),
        reply(b'{"weight_map": {"a": "..\\\\x.safetensors"}}'),
        reply(b'{"weight_map": {"a": "pickle.bin"}}'),
        reply(b'{"weight_map": {"a": ["x"]}}'),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffffff\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 999 " + b"x" * 10**6,
        b"SSH-2.0-OpenSSH\r\n",
        b"",
    ],
    ids=range(17),
)
async def test_whatever_it_answers_it_is_no_hub_and_nothing_is_kept(
    data: bytes, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hub_that(always(data), monkeypatch):
        with pytest.raises(HubUnusable):
            await fetch(model, tmp_path)
    assert list((tmp_path / "store").iterdir()) == []


@pytest.mark.parametrize(
    ("file", "size"),
    [
        (b"", 0),
        (b"x" * 7, 7),
        (header(DEEP), None),
        ((2**63 - 1).to_bytes(8, "little") + b"{}", 10**18 - 1),
        (header({}), None),
        (tensor(shape=[float("inf")]), None),
        (tensor(shape=[10**4000] * 1000), None),
        (tensor(shape=[-4]), None),
        (tensor(data_offsets=[16, 0]), None),
        (tensor(data_offsets=[0, 2**70]), 2**55),
        (tensor(data_offsets=[0]), None),
        (header([]), None),
    ],
    ids=range(12),
)
async def test_a_file_that_is_cut_or_lies_about_itself_gives_nothing(
    file: bytes, size: int | None, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hub_that(files(None, file, size), monkeypatch):
        with pytest.raises(HubUnusable):
            await fetch(model, tmp_path)
    assert list((tmp_path / "store").iterdir()) == []


async def test_a_worker_does_not_go_where_a_redirect_points_in_its_own_network(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answer(path: str, part: str, writer: asyncio.StreamWriter) -> None:
        port = writer.get_extra_info("sockname")[1]
        writer.write(reply(b"", REDIRECT, f"Location: http://localhost:{port}/secret"))

    async with hub_that(answer, monkeypatch) as asked:
        with pytest.raises(HubUnusable, match="sends us to localhost, which is no place on the internet"):
            await fetch(model, tmp_path)
    assert [path for path in asked if "secret" in path] == []


async def test_what_comes_packed_is_not_unpacked(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = gzip.compress(b'{"weight_map": {}}' + b" " * 10**7)
    async with hub_that(always(reply(packed, "200 OK", "Content-Encoding: gzip")), monkeypatch):
        with pytest.raises(HubUnusable, match="not a safetensors index"):
            await fetch(model, tmp_path)


async def test_a_body_without_an_end_is_left_where_it_exceeds_what_was_asked(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = 0

    async def answer(path: str, part: str, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b" " * 2**20)
            await writer.drain()
            written += 2**20

    monkeypatch.setattr(hub, "MAX_INDEX_BYTES", 2**22)
    async with hub_that(answer, monkeypatch):
        with pytest.raises(HubUnusable, match="more than was asked"):
            await fetch(model, tmp_path)
    assert written < 2**24


async def test_a_hub_that_trickles_is_given_up(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(path: str, part: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        while True:
            writer.write(b" ")
            await asyncio.sleep(0.05)

    begun_s = time.monotonic()
    async with hub_that(answer, monkeypatch):
        with pytest.raises(HubUnusable, match="less than"):
            await fetch(model, tmp_path)
    assert time.monotonic() - begun_s < 8


async def test_a_tensor_that_ends_early_is_not_taken_for_whole(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = next(model.glob("*.safetensors")).read_bytes()
    cut = files(None, whole[: len(whole) // 2], len(whole))
    manifest = build_manifest(model, "someone/small", COMMIT)
    async with hub_that(cut, monkeypatch):
        with pytest.raises(HubUnusable):
            await fetch(model, tmp_path)
    store = BlobStore(tmp_path / "store")
    kept = [entry for entry in manifest.tensors if store.has(entry.digest)]
    assert len(kept) < len(manifest.tensors)
    assert all(whole.find(store.read(entry.digest)) >= 0 for entry in kept)


@pytest.mark.parametrize(
    ("endpoint", "to", "may"),
    [
        ("https://huggingface.co/x", "https://cdn-lfs.hf.co/y", True),
        ("https://huggingface.co/x", "http://cdn-lfs.hf.co/y", False),
        ("https://huggingface.co/x", "https://192.168.1.1/y", False),
        ("https://huggingface.co/x", "https://0x7f000001/y", False),
        ("https://huggingface.co/x", "https://100.64.0.1/y", False),
        ("https://huggingface.co/x", "https://[::ffff:10.0.0.1]/y", False),
        ("https://huggingface.co/x", "https://[fe80::1]/y", False),
        ("https://huggingface.co/x", "https://127.1/y", False),
        ("https://huggingface.co/x", "https://printer.local/y", False),
        ("http://mirror/x", "http://mirror/y", True),
        ("http://10.0.0.5:8080/x", "http://10.0.0.5:9090/y", True),
        ("http://10.0.0.5:8080/x", "http://10.0.0.6/y", False),
    ],
)
async def test_a_hub_may_send_a_worker_to_storage_but_not_into_its_own_network(
    endpoint: str, to: str, may: bool
) -> None:
    import httpx

    door, request = _Door(httpx.URL(endpoint)), httpx.Request("GET", to)
    if may:
        await door.check(request)
    else:
        with pytest.raises(HubUnusable):
            await door.check(request)


def test_a_header_that_is_too_deep_is_damaged_for_a_local_file_too(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(header(DEEP))
    with (tmp_path / "x").open("rb") as file, pytest.raises(WeightsInvalid, match="not that of a safetensors file"):
        read_header(file, (tmp_path / "x").stat().st_size, "x")
