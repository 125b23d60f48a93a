"""What was found out about a model, kept on disk: a head that serves it again starts nothing that loads torch.

Kept are what torch said of a configuration and of tensors, under both and under the versions of all that took part.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec
from blake3 import blake3

from muster.disk import cache_directory, version_of, write_if_possible
from muster.model.apart import AsStored, Shape, Tensors, ask
from muster.model.weights import DirectoryWeights
from muster.spec.few_bits import AS_STORED, FewBits
from muster.spec.model_shape import ModelShape


def described(weights: DirectoryWeights) -> Tensors:
    spans = {name: weights.file(name).spans[name] for name in sorted(weights.names())}
    return {name: (span.dtype, span.shape) for name, span in spans.items()}


def checked_shape(
    config_json: str, tensors: Tensors, name: str, dtype: str, few_bits: FewBits = AS_STORED
) -> ModelShape:
    """Raises `UnsupportedModel`, and `WeightsInvalid` unless the tensors make up the whole model."""
    path = _path("shapes", (config_json, tensors, name, dtype, few_bits))
    try:
        return msgspec.json.decode(path.read_bytes(), type=ModelShape)
    except (OSError, msgspec.MsgspecError):  # none yet, or damaged: it costs time, nothing else
        shape = ask(Shape(config_json, tensors, name, dtype, few_bits))
        assert isinstance(shape, ModelShape)
    write_if_possible(path, msgspec.json.encode(shape))
    return shape


def config_as_stored(weights: DirectoryWeights, digests: Sequence[tuple[str, str]]) -> str:
    """As `checkpoint.as_stored` of a folder's own configuration. `digests` are those of all tensors, by name."""
    path = _path("configs", (weights.config_json, digests))
    try:
        return msgspec.json.decode(path.read_bytes(), type=str)
    except (OSError, msgspec.MsgspecError):
        config_json = ask(AsStored(str(weights.path)))
        assert isinstance(config_json, str)
    write_if_possible(path, msgspec.json.encode(config_json))
    return config_json


def _path(kind: str, about: object) -> Path:
    key = msgspec.json.encode((version_of("model", "transformers", "torch"), about))
    return cache_directory() / kind / f"{blake3(key).hexdigest()[:32]}.json"
