"""Tensors of a model by their checkpoint names. Safetensors only; nothing is unpickled. Knows nothing of layers."""

import json
from pathlib import Path
from typing import Protocol

from torch import Tensor

from muster.errors import WeightsInvalid
from muster.model.tensor_file import TensorFile

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"


class Weights(Protocol):
    """Where a stage gets its tensors from."""

    config_json: str
    """Text of config.json."""

    def names(self) -> frozenset[str]: ...

    def read(self, name: str) -> Tensor:
        """A copy on the CPU. Raise `WeightsInvalid` when the tensor is missing, cut off or of an unknown type."""
        ...


class DirectoryWeights:
    """A directory with config.json and one or more safetensors files. Opens each file when it is first needed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_json = _read_text(path / "config.json")
        self._files: dict[str, TensorFile] = {}
        self._file_of = self._locate()

    def names(self) -> frozenset[str]:
        return frozenset(self._file_of)

    def read(self, name: str) -> Tensor:
        return self.file(name).read(name)

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
            self._files[file_name] = TensorFile(self.path / file_name)
        return self._files[file_name]

    def _locate(self) -> dict[str, str]:
        """Tensor name -> file name."""
        if (self.path / INDEX_NAME).is_file():
            return read_index(_read_text(self.path / INDEX_NAME), self.path / INDEX_NAME)
        files = sorted(file.name for file in self.path.glob("*.safetensors"))
        if SINGLE_NAME in files:
            files = [SINGLE_NAME]
        if not files:
            raise WeightsInvalid(
                f"{self.path} holds no safetensors file; convert the checkpoint to safetensors "
                "(Muster does not unpickle weights)."
            )
        return {name: file for file in files for name in self._open(file).spans}


def open_directory(path: Path) -> DirectoryWeights:
    """Raise `WeightsInvalid` when the directory is not a readable safetensors checkpoint."""
    return DirectoryWeights(path)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise WeightsInvalid(
            f"{path} cannot be read ({error.strerror}); a model directory holds config.json and *.safetensors."
        ) from error
    except UnicodeDecodeError as error:
        raise WeightsInvalid(f"{path} is not text; download the model again.") from error


def read_index(text: str | bytes, path: Path) -> dict[str, str]:
    """Tensor name -> file name in the same directory, from the text of an index that lies at `path`.

    Raises `WeightsInvalid` when it is no index.
    """
    try:
        file_of = json.loads(text)["weight_map"]
        if all(isinstance(file, str) and Path(file).name == file for file in file_of.values()):
            return dict(file_of)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsInvalid(f"{path} is not a safetensors index; download the model again.") from error
    raise WeightsInvalid(f"{path} names files outside its own directory; do not use this model.")
