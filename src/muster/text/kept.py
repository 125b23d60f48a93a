"""Conversions of tokenizers that were made before, on disk: the library that makes them takes seconds to load.

Kept are a `Description` and its `Vocabulary`, under the contents of all files that the library may have read and under
the versions of all that took part.
"""

from pathlib import Path
from typing import BinaryIO

import msgspec
from blake3 import blake3

from muster.disk import cache_directory, version_of, write_if_possible
from muster.text.calls import Vocabulary

_WEIGHTS = frozenset({".safetensors", ".bin", ".pt", ".pth", ".gguf", ".onnx", ".h5", ".msgpack"})
MAX_BYTES = 128 * 2**20
"""Of all files together; more is no tokenizer, and reading it would take longer than what it saves."""


class Kept:
    """Where the conversion of a directory's tokenizer is kept, or would be."""

    def __init__(self, directory: Path) -> None:
        key = _key(directory)
        self._path = cache_directory() / "tokenizers" / key if key is not None else None

    def read(self) -> tuple[BinaryIO, Vocabulary] | None:
        """None where nothing is kept, or where it is damaged: that costs time, nothing else."""
        if self._path is None:
            return None
        try:
            written = self._path.with_suffix(".vocabulary").read_bytes()
            digest, vocabulary = msgspec.msgpack.decode(written, type=tuple[bytes, Vocabulary])
            file = self._path.with_suffix(".description").open("rb")
        except (OSError, msgspec.MsgspecError):
            return None
        if blake3(file.read()).digest() == digest:
            return file, vocabulary
        file.close()
        return None

    def write(self, file: BinaryIO, vocabulary: Vocabulary) -> None:
        if self._path is None:
            return
        file.seek(0)
        description = file.read()
        write_if_possible(self._path.with_suffix(".description"), description)
        digest = blake3(description).digest()
        write_if_possible(self._path.with_suffix(".vocabulary"), msgspec.msgpack.encode((digest, vocabulary)))


def _key(directory: Path) -> str | None:
    files = [file for file in sorted(directory.rglob("*")) if file.is_file() and file.suffix not in _WEIGHTS]
    try:
        if sum(file.stat().st_size for file in files) > MAX_BYTES:
            return None
        contents = [(file.relative_to(directory).as_posix(), blake3(file.read_bytes()).digest()) for file in files]
    except OSError:
        return None
    versions = version_of("text", "transformers", "tokenizers")
    return blake3(msgspec.msgpack.encode((versions, contents))).hexdigest()[:32]
