"""Checkpoints on disk: a folder for each, there as a whole or not at all, and verified when one is read.

    checkpoints/step-00000100/     model.safetensors and config.json (or an adapter's two files), optimizer.safetensors,
                                   state.json: the step, what run it belongs to, the digest of every file

Knows nothing of stages: tensors come and go by the names that they have in the whole model.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from muster.errors import InvalidRequest, MachineTrouble, WeightsInvalid

STATE_FILE, OPTIMIZER_FILE = "state.json", "optimizer.safetensors"
MAX_STATE_BYTES = 2**20
_PARTIAL = ".partial"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    path: Path
    step: int
    """How many are done."""
    identity: Mapping[str, Any]
    """Of the run that it belongs to."""

    def optimizer_state(self) -> dict[str, Tensor]:
        """Empty before the first step."""
        file = self.path / OPTIMIZER_FILE
        return load_file(file) if file.is_file() else {}


def write_checkpoint(
    folder: Path,
    step: int,
    identity: Mapping[str, Any],
    optimizer_state: Mapping[str, Tensor],
    write_model: Callable[[Path], None],
    keep: int,
) -> Path:
    """`write_model` fills a folder. What was there before stays until this one is whole; then the newest `keep` stay.

    Raises `MachineTrouble` where the disk is full or does not take it.
    """
    path = folder / f"step-{step:08d}"
    partial = path.with_name(path.name + _PARTIAL)
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write_model(partial)
        if optimizer_state:
            tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in optimizer_state.items()}
            save_file(tensors, partial / OPTIMIZER_FILE)
        _seal(partial, step, identity)
        shutil.rmtree(path, ignore_errors=True)
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        reason = getattr(error, "strerror", None) or str(error)
        raise MachineTrouble(
            f"The checkpoint of step {step} cannot be written to {folder} ({reason}); free some space there and run "
            "again, which goes on from the last one."
        ) from error
    for old in _folders(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return path


def latest_checkpoint(folder: Path, told: Callable[[str], None]) -> Checkpoint | None:
    """The newest that is whole; `told` is told of those that are not. None without any."""
    for path in reversed(_folders(folder)):
        try:
            return read_checkpoint(path)
        except WeightsInvalid as error:
            told(str(error))
    return None


def read_checkpoint(path: Path) -> Checkpoint:
    """Raises `WeightsInvalid` if a file is missing or differs from what was written."""
    try:
        state = json.loads((path / STATE_FILE).read_bytes()[:MAX_STATE_BYTES])
        digests, checkpoint = dict(state["digests"]), Checkpoint(path, int(state["step"]), dict(state["identity"]))
        broken = [name for name, digest in digests.items() if _digest(path / Path(name).name) != digest]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsInvalid(f"{path} is no whole checkpoint ({error}); remove it.") from None
    if broken:
        raise WeightsInvalid(f"{path / broken[0]} is not what was written; remove this checkpoint.")
    return checkpoint


def check_identity(checkpoint: Checkpoint, identity: Mapping[str, Any]) -> None:
    """Raise `InvalidRequest` if the checkpoint belongs to another run."""
    differing = [key for key, value in identity.items() if checkpoint.identity.get(key) != value]
    if differing:
        raise InvalidRequest(
            f"{checkpoint.path} belongs to a run with another {' and '.join(differing)}; write another `out`, or "
            "remove that folder.",
            "out",
        )


def _seal(folder: Path, step: int, identity: Mapping[str, Any]) -> None:
    files = sorted(path for path in folder.iterdir() if path.is_file())
    for path in files:
        _flush(path)
    digests = {path.name: _digest(path) for path in files}
    state = folder / STATE_FILE
    state.write_text(json.dumps({"step": step, "identity": dict(identity), "digests": digests}, indent=2))
    _flush(state)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(path: Path) -> str:
    digest = blake3()
    with path.open("rb") as file:
        for block in _blocks(file):
            digest.update(block)
    return digest.hexdigest()


def _blocks(file: Any) -> Iterator[bytes]:
    while block := file.read(2**22):
        yield block


def _folders(folder: Path) -> list[Path]:
    """In the order of their steps."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir() and not path.name.endswith(_PARTIAL))
