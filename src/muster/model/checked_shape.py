"""A model's shape, once its architecture and its tensors have been checked. Kept on disk, so that a head that serves
the model again loads no torch.
"""

from pathlib import Path

import msgspec
from blake3 import blake3

from muster.model.disk import cache_directory, version_of_checks, write_if_possible
from muster.model.weights import DirectoryWeights
from muster.spec.model_shape import ModelShape

Tensors = dict[str, tuple[str, tuple[int, ...]]]
"""Name -> dtype as the file names it, shape."""


def checked_shape(weights: DirectoryWeights, name: str, dtype: str) -> ModelShape:
    """Raises `UnsupportedModel`, and `WeightsInvalid` unless the tensors make up the whole model."""
    config_json = weights.config_json
    tensors = _described(weights)
    path = _path(config_json, tensors, name, dtype)
    shape = _read(path)
    if shape is None:
        shape = _check(config_json, tensors, name, dtype)
        write_if_possible(path, msgspec.json.encode(shape))
    return shape


def _described(weights: DirectoryWeights) -> Tensors:
    spans = {name: weights.file(name).spans[name] for name in sorted(weights.names())}
    return {name: (span.dtype, span.shape) for name, span in spans.items()}


def _check(config_json: str, tensors: Tensors, name: str, dtype: str) -> ModelShape:
    from muster.model.conformance import check_conformance
    from muster.model.shape import check_tensors, shape_of

    check_conformance(config_json)  # first, as whatever reads the configuration trips over it
    check_tensors(config_json, tensors)
    return shape_of(config_json, name, dtype)


def _path(config_json: str, tensors: Tensors, name: str, dtype: str) -> Path:
    key = msgspec.json.encode((version_of_checks(), config_json, tensors, name, dtype))
    return cache_directory() / "shapes" / f"{blake3(key).hexdigest()[:32]}.json"


def _read(path: Path) -> ModelShape | None:
    """None where there is none yet, or a damaged one: it costs time, nothing else."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=ModelShape)
    except (OSError, msgspec.MsgspecError):
        return None
