"""What the head itself knows of the model: everything but its weights in memory. Knows nothing of the pool."""

from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

import msgspec

from muster.cost.config_fields import Fields
from muster.cost.dtypes import possible_dtypes
from muster.errors import InvalidRequest
from muster.model import apart
from muster.model.blobs import Manifest, build_manifest
from muster.model.checked import checked_shape, described
from muster.model.source import resolve, revision_of
from muster.model.weights import open_directory
from muster.spec.few_bits import AS_STORED, FewBits
from muster.spec.model_name import model_name
from muster.spec.model_shape import ModelShape
from muster.text.tokenizer import Tokenizer, load_tokenizer
from muster.wire.messages.calibrate import MAX_POSITIONS

CALIBRATION_FILES = ("errors.py", "serve/engine.py")
CALIBRATION_CHARACTERS = 12_000


@dataclass(frozen=True, slots=True)
class LoadedModel:
    path: Path
    choices: tuple[ModelShape, ...]
    """In every dtype that it may be served in, the checkpoint's own first."""
    manifest: Manifest
    tokenizer: Tokenizer
    vocabulary: bytes
    """What the manifest calls so."""
    calibration: tuple[int, ...] = ()
    """Tokens of a text by which codecs on links are judged."""

    @property
    def shape(self) -> ModelShape:
        """In the first of them; for what does not depend on the dtype."""
        return self.choices[0]


def load_model(
    name: str, dtype: str | None = None, max_context: int | None = None, few_bits: FewBits = AS_STORED
) -> LoadedModel:
    """`dtype` None leaves it to the machines of the pool. `max_context` None takes the model's own.

    Raises `MusterError`: unknown, unreadable, unsupported, or without a tokenizer.
    """
    path = resolve(name)
    try:
        return _load(path, name, dtype, max_context, few_bits)
    finally:
        apart.end()


def load_draft(name: str, model: LoadedModel, dtype: str | None = None) -> LoadedModel:
    """A small model that is to guess for `model`. Raises `MusterError`, also where its tokens are others."""
    draft = load_model(name, dtype)
    draft.tokenizer.close()
    if draft.vocabulary != model.vocabulary or draft.shape.vocab_size != model.shape.vocab_size:
        raise InvalidRequest(
            f"{draft.shape.name} cannot guess for {model.shape.name}: their tokenizers or vocabularies differ "
            f"({draft.shape.vocab_size} and {model.shape.vocab_size} tokens); give --draft a smaller model of the same "
            "family, or leave it out.",
            "draft",
        )
    return draft


def _load(path: Path, name: str, dtype: str | None, max_context: int | None, few_bits: FewBits) -> LoadedModel:
    weights = open_directory(path)
    tensors, dtypes = described(weights), possible_dtypes(Fields.parse(weights.config_json), dtype)
    checked_shape(weights.config_json, tensors, name, dtypes[0], few_bits)  # before anything large is read
    tokenizer = load_tokenizer(path)
    name = model_name(name)
    vocabulary = msgspec.msgpack.encode(tokenizer.spellings)
    manifest = build_manifest(path, name, revision_of(name, path)).with_vocabulary(vocabulary)
    shapes = [checked_shape(manifest.config_json, tensors, name, one, few_bits) for one in dtypes]
    choices = tuple(_limited(shape, max_context) for shape in shapes)
    return LoadedModel(path, choices, manifest, tokenizer, vocabulary, _calibration(tokenizer))


def _calibration(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Of code and prose: some of this program's own. Empty where the tokenizer fails on it; then nothing is judged."""
    sources = files("muster")
    text = "\n".join(sources.joinpath(path).read_text(encoding="utf-8") for path in CALIBRATION_FILES)
    try:
        return tuple(tokenizer.encode(text[:CALIBRATION_CHARACTERS])[:MAX_POSITIONS])
    except InvalidRequest:
        return ()


def _limited(shape: ModelShape, max_context: int | None) -> ModelShape:
    if max_context is None:
        return shape
    if not 0 < max_context <= shape.max_context:
        raise InvalidRequest(
            f"--max-context is {max_context} but {shape.name} takes 1 to {shape.max_context} tokens.", "max_context"
        )
    return replace(shape, max_context=max_context)
