"""Weights from the Hugging Face hub: the byte ranges of the wanted tensors, and no more. Knows nothing of layers.

Asked for are the index, and of safetensors files the header and those ranges, at the commit that the head took. Every
tensor must have its digest, so neither the hub nor whoever named the repository has to be trusted. A tensor that
stopped half-way goes on from wherever the rest comes. `HF_ENDPOINT` and the owner's token mean what they always mean.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from io import BytesIO
from ipaddress import ip_address
from pathlib import Path

import httpx
from huggingface_hub import hf_hub_url
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import build_hf_headers, validate_repo_id

from muster.errors import WeightsInvalid
from muster.model.blobs import BlobStore, Manifest, TensorEntry
from muster.model.tensor_file import MAX_HEADER_BYTES, Span, read_header
from muster.model.weights import INDEX_NAME, MAX_INDEX_BYTES, SINGLE_NAME, read_index
from muster.node.fetch import RANGE_BYTES, to_the_end

ANSWER_S = 10.0
"""For an answer, and then for every `RANGE_BYTES` of it: a hub that trickles is worse than the head."""
HEADER_BYTES = 100_000
"""Of a file, read at first; most headers are shorter, and what comes beyond one is thrown away."""
Progress = Callable[[int], None]


class HubUnusable(Exception):
    """The hub did not give the weights; the message says why."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """What is still missing of a tensor: [start, stop) of the file, `have` bytes of it being here."""

    digest: str
    have: int
    start: int
    stop: int


async def fetch_from_hub(
    manifest: Manifest, wanted: Sequence[TensorEntry], store: BlobStore, progress: Progress = lambda done: None
) -> None:
    """Bring the wanted tensors into the store. `progress` gets the bytes added since the last call.

    Raises `HubUnusable`; what has arrived until then stays. Raises `MachineTrouble` when the disk is full.
    """
    try:
        validate_repo_id(manifest.model)
        headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
        door = _Door(httpx.URL(hf_hub_url(manifest.model, INDEX_NAME)))
        async with httpx.AsyncClient(
            headers=headers, follow_redirects=True, timeout=None, event_hooks={"request": [door.check]}
        ) as client:
            await _Hub(client, manifest, store, progress).fetch(wanted)
    except TimeoutError as error:
        raise HubUnusable(f"it gave less than {RANGE_BYTES} bytes in {ANSWER_S:.0f} s") from error
    except (httpx.HTTPError, httpx.InvalidURL, HFValidationError, WeightsInvalid) as error:
        raise HubUnusable(str(error) or type(error).__name__) from error


class _Door:
    """Where a hub may send us: to any storage on the internet, but not into this machine's own network."""

    def __init__(self, hub: httpx.URL) -> None:
        self._hub = hub

    async def check(self, request: httpx.Request) -> None:
        """Called before every request, those of redirects too. Raises `HubUnusable`."""
        to = request.url
        if self._hub.scheme == "https" and to.scheme != "https":
            raise HubUnusable(f"it sends us to {to.host[:80]} without encryption")
        if _is_near(to.host) and to.host != self._hub.host:
            raise HubUnusable(f"it sends us to {to.host[:80]}, which is no place on the internet")


def _is_near(host: str) -> bool:
    """Whether a host is one of this network, as far as its name tells."""
    try:
        address = ip_address(host)
        return not (getattr(address, "ipv4_mapped", None) or address).is_global
    except ValueError:
        name, _, last = host.rstrip(".").rpartition(".")
        # The end of a real name is a word; numbers are how `127.1` hides.
        return not name or last in ("local", "internal", "localhost") or last[:1].isdigit()


class _Hub:
    def __init__(self, client: httpx.AsyncClient, manifest: Manifest, store: BlobStore, progress: Progress) -> None:
        self._client, self._manifest, self._store, self._progress = client, manifest, store, progress

    async def fetch(self, wanted: Sequence[TensorEntry]) -> None:
        files = await self._files()
        missing = {entry.digest: entry for entry in wanted if not self._store.has(entry.digest)}
        by_file: dict[str, list[TensorEntry]] = {}
        for entry in missing.values():
            by_file.setdefault(files.get(entry.name, SINGLE_NAME), []).append(entry)
        for file, entries in by_file.items():
            spans = await self._spans(file)
            for run in _runs([_piece(entry, spans, self._store) for entry in entries]):
                await self._take(file, run)

    async def _files(self) -> Mapping[str, str]:
        """Tensor name -> file name; empty where one file holds all, which then counts, as in `DirectoryWeights`."""
        async with self._answer(SINGLE_NAME, {"Range": "bytes=0-7"}) as answer:
            if answer.status_code == 206:
                return {}
        async with self._answer(INDEX_NAME, {}) as answer:
            if answer.status_code == 404:
                return {}
            _check_status(answer, 200)
            text = b"".join([data async for data in _chunks(answer, MAX_INDEX_BYTES)])
        files = read_index(text, Path(INDEX_NAME))
        if not all(file.endswith(".safetensors") for file in files.values()):
            raise HubUnusable("its index names files that are not safetensors")
        return files

    async def _spans(self, file: str) -> Mapping[str, Span]:
        start, size = await self._read(file, 0, HEADER_BYTES)
        length = 8 + int.from_bytes(start[:8], "little")
        if len(start) < length <= min(size, MAX_HEADER_BYTES):
            start += (await self._read(file, len(start), length))[0]
        return await asyncio.to_thread(read_header, BytesIO(start), size, file)

    async def _read(self, file: str, start: int, stop: int) -> tuple[bytes, int]:
        """The bytes [start, stop) of a file, cut at its end, and its size."""
        async with self._range(file, start, stop) as answer:
            data = b"".join([data async for data in _chunks(answer, stop - start)])
            return data, _size(answer)

    async def _take(self, file: str, run: Sequence[_Piece]) -> None:
        """Neighbouring tensors in one answer, each into its own blob."""
        start, stop = run[0].start, run[-1].stop
        if start == stop:  # no range asks for no bytes
            await self._finish(run[0].digest, 0)
            return
        async with self._range(file, start, stop) as answer:
            chunks = _chunks(answer, stop - start)
            rest = memoryview(b"")
            for piece in run:
                have, total = piece.have, piece.have + piece.stop - piece.start
                while have < total:
                    rest = rest or memoryview(await anext(chunks, b""))
                    if not rest:
                        raise HubUnusable("its answer ended early")
                    part, rest = rest[: total - have], rest[total - have :]
                    await to_the_end(asyncio.to_thread(self._store.write_range, piece.digest, have, part))
                    have += len(part)
                    self._progress(len(part))
                await self._finish(piece.digest, total)

    async def _finish(self, digest: str, nbytes: int) -> None:
        try:
            await to_the_end(asyncio.to_thread(self._store.finish, digest))
        except WeightsInvalid as error:
            self._progress(-nbytes)
            raise HubUnusable("what it has there is not what the head serves") from error

    @asynccontextmanager
    async def _range(self, file: str, start: int, stop: int) -> AsyncIterator[httpx.Response]:
        async with self._answer(file, {"Range": f"bytes={start}-{stop - 1}"}) as answer:
            _check_status(answer, 206)
            if not answer.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                raise HubUnusable("it gave another part of a file than was asked for")
            yield answer

    @asynccontextmanager
    async def _answer(self, file: str, headers: Mapping[str, str]) -> AsyncIterator[httpx.Response]:
        url = hf_hub_url(self._manifest.model, file, revision=self._manifest.revision)
        async with asyncio.timeout(ANSWER_S):
            answer = await self._client.send(self._client.build_request("GET", url, headers=headers), stream=True)
        try:
            yield answer
        finally:
            await answer.aclose()


def _piece(entry: TensorEntry, spans: Mapping[str, Span], store: BlobStore) -> _Piece:
    span = spans.get(entry.name)
    if span is None or (span.dtype, span.shape) != (entry.dtype, entry.shape):
        raise HubUnusable(f"it has no such tensor {entry.name}")
    have = min(store.partial_size(entry.digest), entry.nbytes)
    return _Piece(entry.digest, have, span.start + have, span.stop)


def _runs(pieces: Sequence[_Piece]) -> list[list[_Piece]]:
    """Pieces that lie side by side in the file together; nothing between them is asked for."""
    runs: list[list[_Piece]] = []
    for piece in sorted(pieces, key=lambda piece: piece.start):
        if runs and runs[-1][-1].stop == piece.start:
            runs[-1].append(piece)
        else:
            runs.append([piece])
    return runs


async def _chunks(answer: httpx.Response, most: int) -> AsyncIterator[bytes]:
    """The answer's body in chunks, each in time, `most` bytes at most."""
    body, came = answer.aiter_raw(RANGE_BYTES), 0  # raw: nothing that is packed grows here
    while True:
        async with asyncio.timeout(ANSWER_S):
            data = await anext(body, b"")
        if not data:
            return
        came += len(data)
        if came > most:
            raise HubUnusable("it gave more than was asked for")
        yield data


def _check_status(answer: httpx.Response, wanted: int) -> None:
    if answer.status_code in (401, 403):
        raise HubUnusable("it asks for consent or a token; accept the terms on the model's page and set HF_TOKEN")
    if answer.status_code != wanted:
        raise HubUnusable(f"it answers with status {answer.status_code}")


def _size(answer: httpx.Response) -> int:
    """Of the whole file, from `Content-Range: bytes 0-99/1234`."""
    size = answer.headers["Content-Range"].rpartition("/")[2]
    if not size.isdecimal() or len(size) > 18:
        raise HubUnusable("it does not say how long a file is")
    return int(size)
