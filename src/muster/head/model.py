"""What the head itself knows of the model: everything but its weights in memory. Knows nothing of the pool."""

from dataclasses import dataclass, replace
from pathlib import Path

from muster.errors import InvalidRequest
from muster.model.blobs import Manifest, build_manifest
from muster.model.checked import checked_shape, described
from muster.model.source import resolve, revision_of
from muster.model.weights import open_directory
from muster.node.devices import default_dtype
from muster.spec.model_name import model_name
from muster.spec.model_shape import ModelShape
from muster.text.tokenizer import Tokenizer, load_tokenizer


@dataclass(frozen=True, slots=True)
class LoadedModel:
    path: Path
    shape: ModelShape
    manifest: Manifest
    tokenizer: Tokenizer


def load_model(name: str, dtype: str | None, device: str, max_context: int | None) -> LoadedModel:
    """`dtype` None takes what suits `device`. `max_context` None takes the model's own.

    Raises `MusterError`: unknown, unreadable, unsupported, or without a tokenizer.
    """
    path = resolve(name)
    weights, dtype = open_directory(path), dtype or default_dtype(device)
    tensors = described(weights)
    checked_shape(weights.config_json, tensors, name, dtype)  # before anything large is read
    tokenizer = load_tokenizer(path)
    name = model_name(name)
    manifest = build_manifest(path, name, revision_of(name, path))
    shape = checked_shape(manifest.config_json, tensors, name, dtype)
    return LoadedModel(path, _limited(shape, max_context), manifest, tokenizer)


def _limited(shape: ModelShape, max_context: int | None) -> ModelShape:
    if max_context is None:
        return shape
    if not 0 < max_context <= shape.max_context:
        raise InvalidRequest(
            f"--max-context is {max_context} but {shape.name} takes 1 to {shape.max_context} tokens.", "max_context"
        )
    return replace(shape, max_context=max_context)
