"""Tensors that one machine fetches from another: addressed by the BLAKE3 digest of their bytes.

The head describes its model directory in a *manifest* and serves byte ranges of what the manifest names. A node keeps
what it has fetched in a store of files named by digest, goes on where it stopped, and trusts nothing until the digest
is right. Neither side opens anything else.
"""

import math
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from blake3 import blake3
from msgspec.structs import replace

from muster.disk import cache_directory, write_if_possible
from muster.errors import MachineTrouble, ProtocolViolation, WeightsInvalid
from muster.model.checked import config_as_stored
from muster.model.folder import open_inside, read_inside
from muster.model.source import HUB_ID, REVISION, resolve_local
from muster.model.tensor_file import (
    DTYPES,
    PIECE_BYTES,
    Ranges,
    Span,
    TensorFile,
    check_dtype,
    part_shape,
    read_fully,
    read_strided,
)
from muster.model.weights import DirectoryWeights, Weights, open_directory

if TYPE_CHECKING:
    from torch import Tensor

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
)
MAX_MANIFEST_BYTES = 64 * 2**20
MAX_TENSOR_BYTES = 64 * 2**30
MAX_VOCABULARY_BYTES = 128 * 2**20


class TensorEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One tensor of the checkpoint. `dtype` as safetensors names it (`BF16`)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    digest: str


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A small text file of the tokenizer."""

    name: str
    nbytes: int
    digest: str


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that a node needs to know of a model before it has any of it."""

    model: str
    config_json: str
    tokenizer_files: tuple[FileEntry, ...]
    tensors: tuple[TensorEntry, ...]
    revision: str = ""
    """Where `model` is a hub id: the commit there that the files are of. Empty: the hub may not have them."""
    vocabulary: FileEntry | None = None
    """The packed `text/calls.Spellings` of the tokenizer, for stages that keep outputs to a grammar. None has none."""

    def with_vocabulary(self, data: bytes) -> "Manifest":
        return replace(self, vocabulary=FileEntry("vocabulary", len(data), blake3(data).hexdigest()))

    def to_bytes(self) -> bytes:
        return msgspec.json.encode(self)

    @property
    def digest(self) -> str:
        """BLAKE3 of `to_bytes()`: the name under which the placement orders it."""
        return blake3(self.to_bytes()).hexdigest()

    @staticmethod
    def from_bytes(data: bytes | bytearray | memoryview) -> "Manifest":
        """Raise `ProtocolViolation` when it is not a manifest or contradicts itself."""
        if len(data) > MAX_MANIFEST_BYTES:
            raise ProtocolViolation(f"A manifest of {len(data)} bytes came; at most {MAX_MANIFEST_BYTES} are taken.")
        try:
            manifest = msgspec.json.decode(data, type=Manifest)
        except msgspec.MsgspecError as error:
            raise ProtocolViolation(f"What came is not a manifest ({error}); update both machines.") from error
        for tensor in manifest.tensors:
            _check_entry(tensor)
        for file in manifest.tokenizer_files:
            _check_entry(file)
        if (words := manifest.vocabulary) and not (
            _is_digest(words.digest) and 0 <= words.nbytes <= MAX_VOCABULARY_BYTES
        ):
            raise ProtocolViolation("The manifest's vocabulary contradicts itself; update both machines.")
        if manifest.revision and not (REVISION.fullmatch(manifest.revision) and HUB_ID.fullmatch(manifest.model)):
            raise ProtocolViolation("The manifest names no place on the hub, though it says so; update both machines.")
        return manifest


def _check_entry(entry: TensorEntry | FileEntry) -> None:
    good = _is_digest(entry.digest) and 0 <= entry.nbytes <= MAX_TENSOR_BYTES
    if isinstance(entry, TensorEntry):
        dtype = DTYPES.get(entry.dtype)
        good = good and dtype is not None and all(0 <= size <= MAX_TENSOR_BYTES for size in entry.shape)
        good = good and dtype is not None and math.prod(entry.shape) * dtype.itemsize == entry.nbytes
    else:
        good = good and entry.name in TOKENIZER_FILES
    if not good:
        raise ProtocolViolation(f"The manifest's entry {entry.name[:80]!r} contradicts itself; update both machines.")


def _is_digest(text: str) -> bool:
    return len(text) == 64 and all(character in "0123456789abcdef" for character in text)


def build_manifest(path: Path, model: str = "", revision: str = "") -> Manifest:
    """Describe a model directory. Reads every byte once; later calls read only what has changed since.

    `model` is the name under which it is served, the directory's own by default; `revision` as in `Manifest`.
    """
    weights = open_directory(path)
    known = _Digests(path)
    tensors = tuple(_describe(name, weights.file(name), known) for name in sorted(weights.names()))
    known.save()
    files = {name: read_inside(path, name) for name in TOKENIZER_FILES if (path / name).exists()}
    entries = tuple(FileEntry(name, len(data), blake3(data).hexdigest()) for name, data in files.items())
    config_json = config_as_stored(weights, [(tensor.name, tensor.digest) for tensor in tensors])
    return Manifest(model or path.name, config_json, entries, tensors, revision)


def _describe(name: str, file: TensorFile, known: "_Digests") -> TensorEntry:
    span = file.spans[name]
    return TensorEntry(name, span.dtype, span.shape, span.stop - span.start, known.of(file, name))


class _Digests:
    """Digests of the tensors of a directory, remembered on disk for as long as size and time of a file stay."""

    def __init__(self, path: Path) -> None:
        key = blake3(str(path.resolve()).encode()).hexdigest()[:32]
        self._store = cache_directory() / "digests" / f"{key}.json"
        self._known: dict[str, str] = {}
        try:
            self._known = msgspec.json.decode(self._store.read_bytes(), type=dict[str, str])
        except (msgspec.MsgspecError, OSError):
            return  # none yet, or damaged: it costs time, nothing else

    def of(self, file: TensorFile, name: str) -> str:
        status, span = file.path.stat(), file.spans[name]
        key = f"{file.path.name} {status.st_size} {status.st_mtime_ns} {span.start} {span.stop}"
        if key not in self._known:
            hasher = blake3()
            for piece in file.pieces(name):
                hasher.update(piece)
            self._known[key] = hasher.hexdigest()
        return self._known[key]

    def save(self) -> None:
        write_if_possible(self._store, msgspec.json.encode(self._known))


def matching_directory(model: str, manifest: Manifest, names: Sequence[str]) -> Weights | None:
    """A copy of `model` on this machine whose tensors `names` are, by digest, those of the manifest; else None.

    Nothing is downloaded. The weights returned carry the manifest's configuration, not the copy's.
    """
    path = resolve_local(model)
    if path is None:
        return None
    try:
        weights = open_directory(path)
        known = _Digests(path)
        wanted = {entry.name: entry for entry in manifest.tensors if entry.name in set(names)}
        same = all(_describe(name, weights.file(name), known) == entry for name, entry in wanted.items())
    except (WeightsInvalid, OSError):
        return None  # a broken copy is no copy
    known.save()
    weights.config_json = manifest.config_json
    return weights if same and len(wanted) == len(set(names)) else None


class DirectoryBlobs:
    """What the head serves: ranges of the blobs that its manifest names, straight from the model's files."""

    def __init__(self, path: Path, manifest: Manifest, vocabulary: bytes = b"") -> None:
        """`vocabulary` is what the manifest says of one; it is in no file."""
        self._weights: DirectoryWeights = open_directory(path)
        self._tensors = {entry.digest: entry for entry in manifest.tensors}
        self._files = {entry.digest: entry.name for entry in manifest.tokenizer_files}
        self._sizes = {entry.digest: entry.nbytes for entry in manifest.tensors}
        self._sizes |= {entry.digest: entry.nbytes for entry in manifest.tokenizer_files}
        self._memory = {manifest.digest: manifest.to_bytes()}
        if manifest.vocabulary is not None:
            self._memory[manifest.vocabulary.digest] = vocabulary
        self._sizes |= {digest: len(data) for digest, data in self._memory.items()}

    def size(self, digest: str) -> int | None:
        """Total bytes of the blob, None when there is no such blob."""
        return self._sizes.get(digest)

    def read_range(self, digest: str, offset: int, length: int) -> bytes:
        """[offset, offset + length) of a blob, cut at its end. Raises `KeyError` on an unknown digest."""
        stop = min(offset + max(0, length), self._sizes[digest])
        start = min(max(0, offset), stop)
        if digest in self._memory:
            return self._memory[digest][start:stop]
        if digest in self._files:
            with open_inside(self._weights.path, self._files[digest]) as file:
                file.seek(start)
                return file.read(stop - start)
        name = self._tensors[digest].name
        tensors = self._weights.file(name)
        base = tensors.spans[name].start
        return tensors.read_range(base + start, base + stop)


class BlobStore:
    """What a node has fetched: one file per digest, `.part` while it grows."""

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _disk_trouble(root, error) from error

    def has(self, digest: str) -> bool:
        return self.path(digest).is_file()

    def path(self, digest: str) -> Path:
        """Raise `ProtocolViolation` on what is not a digest: it becomes a file name."""
        if not _is_digest(digest):
            raise ProtocolViolation(
                "A blob was asked for by something that is not a BLAKE3 digest; update both machines."
            )
        return self.root / digest

    def read(self, digest: str) -> bytes:
        """All bytes of a blob that is here."""
        return self.path(digest).read_bytes()

    def partial_size(self, digest: str) -> int:
        """Where to go on."""
        part = self._part(digest)
        return part.stat().st_size if part.is_file() else 0

    def write_range(self, digest: str, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Append at `offset`, which must be where the last write ended (`partial_size`)."""
        if offset != self.partial_size(digest):
            raise ProtocolViolation(
                f"A blob went on at byte {offset} instead of {self.partial_size(digest)}; fetch it again."
            )
        try:
            with self._part(digest).open("ab") as file:
                file.write(data)
        except OSError as error:
            raise _disk_trouble(self.root, error) from error

    def finish(self, digest: str) -> None:
        """Check the digest and keep the blob. Raises `WeightsInvalid`, and forgets the bytes, when it is wrong."""
        if self.has(digest):
            return
        part = self._part(digest)
        if not part.exists():
            part.touch()  # an empty blob needs no write
        hasher = blake3()
        with part.open("rb") as file:
            while piece := file.read(PIECE_BYTES):  # not mapped, see `TensorFile`
                hasher.update(piece)
        if hasher.hexdigest() != digest:
            part.unlink()
            raise WeightsInvalid(f"Blob {digest[:12]}… arrived damaged; fetch it again.")
        os.replace(part, self.path(digest))

    def open(self, manifest: Manifest) -> "StoredWeights":
        """The manifest's tensors as weights; those not fetched yet are missing when they are read."""
        return StoredWeights(self, manifest)

    def _part(self, digest: str) -> Path:
        return self.path(digest).with_suffix(".part")


class StoredWeights:
    """`Weights` over a blob store."""

    def __init__(self, store: BlobStore, manifest: Manifest) -> None:
        self.config_json = manifest.config_json
        self._store = store
        self._entries: Mapping[str, TensorEntry] = {entry.name: entry for entry in manifest.tensors}

    def names(self) -> frozenset[str]:
        return frozenset(self._entries)

    def read(self, name: str) -> "Tensor":
        import torch

        entry = self._entry(name)
        path = self._store.path(entry.digest)
        data = bytearray(entry.nbytes)
        try:
            with path.open("rb") as file:
                size = file.readinto(data)
        except OSError as error:
            raise WeightsInvalid(f"Tensor {name} has not been fetched yet; fetch blob {entry.digest[:12]}….") from error
        if size != entry.nbytes:
            raise self._truncated(name, path)
        dtype = check_dtype(name, entry.dtype)
        if not data:
            return torch.empty(entry.shape, dtype=dtype)
        return torch.frombuffer(data, dtype=dtype).view(entry.shape)

    def read_part(self, name: str, dim: int, ranges: Ranges) -> "Tensor":
        import torch

        entry = self._entry(name)
        dtype = check_dtype(name, entry.dtype)
        shape = part_shape(name, entry.shape, dim, ranges)
        tensor = torch.empty(math.prod(shape) * dtype.itemsize, dtype=torch.uint8)
        span = Span(entry.dtype, entry.shape, 0, entry.nbytes)
        path = self._store.path(entry.digest)
        try:
            with path.open("rb", buffering=0) as file:
                fill = partial(read_fully, file.fileno())
                read_strided(tensor.numpy().data, span, dtype.itemsize, dim, ranges, fill)
        except EOFError:
            raise self._truncated(name, path) from None
        except OSError as error:
            raise WeightsInvalid(f"Tensor {name} has not been fetched yet; fetch blob {entry.digest[:12]}….") from error
        return tensor.view(dtype).view(shape)

    def lies(self, name: str) -> tuple[Path, Span]:
        entry = self._entry(name)
        return self._store.path(entry.digest), Span(entry.dtype, entry.shape, 0, entry.nbytes)

    def same(self, one: str, other: str) -> bool:
        left, right = self._entry(one), self._entry(other)
        return (left.dtype, left.shape, left.digest) == (right.dtype, right.shape, right.digest)

    @staticmethod
    def _truncated(name: str, path: Path) -> WeightsInvalid:
        return WeightsInvalid(f"The stored tensor {name} is truncated; delete {path} and fetch it again.")

    def _entry(self, name: str) -> TensorEntry:
        if name not in self._entries:
            raise WeightsInvalid(f"Tensor {name} is missing from the model; download the model again on the head.")
        return self._entries[name]


def _disk_trouble(root: Path, error: OSError) -> MachineTrouble:
    return MachineTrouble(f"{root} cannot be written ({error.strerror}); free disk space or choose another directory.")
