"""Tensors of a model by their checkpoint names. Safetensors only; nothing is unpickled. Knows nothing of layers."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import msgspec

from muster.cost.config_fields import MAX_CONFIG_BYTES
from muster.errors import WeightsInvalid
from muster.model.folder import read_inside
from muster.model.tensor_file import MAX_TENSORS, Ranges, Span, TensorFile, same_tensor

if TYPE_CHECKING:
    from torch import Tensor

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
MAX_INDEX_BYTES = 32 * 2**20


class Weights(Protocol):
    """Where a stage gets its tensors from."""

    config_json: str
    """Text of config.json."""

    def names(self) -> frozenset[str]: ...

    def read(self, name: str) -> "Tensor":
        """A copy on the CPU. Raise `WeightsInvalid` when the tensor is missing, cut off or of an unknown type."""
        ...

    def read_part(self, name: str, dim: int, ranges: Ranges) -> "Tensor":
        """These ranges of one dimension, one after another, and no more of the tensor. Raises as `read` does."""
        ...

    def same(self, one: str, other: str) -> bool:
        """Whether two tensors are equal in dtype, shape and every bit. Raises as `read` does."""
        ...


@runtime_checkable
class LiesInFiles(Protocol):
    """Weights whose tensors lie in files as they are."""

    def lies(self, name: str) -> tuple[Path, Span]:
        """The file that holds a tensor, and which of its bytes. Raises `WeightsInvalid` when it is missing."""


class DirectoryWeights:
    """A directory with config.json and one or more safetensors files. Opens each file when it is first needed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_json = _read_config(path)
        self._files: dict[str, TensorFile] = {}
        self._file_of = self._locate()

    def names(self) -> frozenset[str]:
        return frozenset(self._file_of)

    def read(self, name: str) -> "Tensor":
        return self.file(name).read(name)

    def read_part(self, name: str, dim: int, ranges: Ranges) -> "Tensor":
        return self.file(name).read_part(name, dim, ranges)

    def lies(self, name: str) -> tuple[Path, Span]:
        file = self.file(name)
        return file.path, file.spans[name]

    def same(self, one: str, other: str) -> bool:
        return same_tensor((self.file(one), one), (self.file(other), other))

    def file(self, name: str) -> TensorFile:
        """The file that holds a tensor."""
        if name not in self._file_of:
            raise WeightsInvalid(f"Tensor {name} is missing from {self.path}; download the model again.")
        file = self._open(self._file_of[name])
        if name not in file.spans:
            raise WeightsInvalid(
                f"{file.path.name} lacks tensor {name}, which {INDEX_NAME} says it holds; download the model again."
            )
        return file

    def _open(self, file_name: str) -> TensorFile:
        if file_name not in self._files:
            if not os.path.exists(self.path / file_name):
                raise WeightsInvalid(
                    f"{self.path / file_name} is missing, which {INDEX_NAME} lists; download the model again."
                )
            self._files[file_name] = TensorFile(self.path / file_name)
        return self._files[file_name]

    def _locate(self) -> dict[str, str]:
        """Tensor name -> file name. What counts is what counts for `transformers`.

        A single whole file goes before an index, which may be left over from another download. Of an index whose files
        are all here the list of files counts, and what they hold, more than what it says of single tensors.
        """
        single = (self.path / SINGLE_NAME).is_file()
        index = self._index(needed=not single)
        if single:
            return self._held_by([SINGLE_NAME])
        if index:
            shards = sorted(set(index.values()))
            if not all(os.path.exists(self.path / shard) for shard in shards):
                return index  # a part of a model may be all that this machine needs
            named = {name: file for name, file in index.items() if name in self._open(file).spans}
            return self._held_by(shards) | named
        files = sorted(file.name for file in self.path.glob("*.safetensors"))
        if not files:
            raise WeightsInvalid(
                f"{self.path} holds no safetensors file; convert the checkpoint to safetensors "
                "(Muster does not unpickle weights)."
            )
        return self._held_by(files)

    def _index(self, needed: bool) -> dict[str, str]:
        """What the index says; empty without one, and for a damaged one that is not needed."""
        path = self.path / INDEX_NAME
        if not path.is_file():
            return {}
        try:
            index = _parse_index(read_inside(self.path, INDEX_NAME, MAX_INDEX_BYTES), path)
        except WeightsInvalid:
            if needed:
                raise
            return {}
        _check_names(index, path)
        return index

    def _held_by(self, files: list[str]) -> dict[str, str]:
        return {name: file for file in files for name in self._open(file).spans}


def open_directory(path: Path) -> DirectoryWeights:
    """Raise `WeightsInvalid` when the directory is not a readable safetensors checkpoint."""
    return DirectoryWeights(path)


def _read_config(folder: Path) -> str:
    try:
        return read_inside(folder, "config.json", MAX_CONFIG_BYTES).decode("utf-8")
    except UnicodeDecodeError as error:
        raise WeightsInvalid(f"{folder / 'config.json'} is not text; download the model again.") from error


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


def read_index(data: bytes, path: Path) -> dict[str, str]:
    """Tensor name -> file name in the same directory, from the text of an index that lies at `path`.

    Raises `WeightsInvalid` when it is no index, or has more entries than a model has tensors.
    """
    index = _parse_index(data, path)
    _check_names(index, path)
    return index


def _parse_index(data: bytes, path: Path) -> dict[str, str]:
    if data.count(b":") > MAX_TENSORS:
        raise WeightsInvalid(f"{path} lists more tensors than any model has; download the model again.")
    try:
        return msgspec.json.decode(data, type=_Index).weight_map
    except (ValueError, RecursionError) as error:
        raise WeightsInvalid(f"{path} is not a safetensors index; download the model again.") from error


def _check_names(index: dict[str, str], path: Path) -> None:
    if not all(Path(file).name == file and file not in ("", "..") for file in set(index.values())):
        raise WeightsInvalid(f"{path} names files outside its own directory; do not use this model.")
