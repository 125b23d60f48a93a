"""Bytes that a stage needs: weights, KV pages and workspace. Knows nothing of what a machine has."""

from dataclasses import dataclass, replace

from muster.spec.model_shape import ModelShape
from muster.spec.plan import ServeSettings, WorkSettings

_DTYPE_BYTES = {
    "float64": 8,
    "float32": 4,
    "bfloat16": 2,
    "float16": 2,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "int8": 1,
}
_LOGITS_BYTES = 4
"""Logits are kept in float32 whatever the model's dtype is."""
PLAIN_BYTES = 16 * 2**20
"""Of weights or cache in few bits that are plain at the same time, with all that their way there takes."""
SCORED_AT_ONCE = 64
"""Tokens of prompts whose logits are there at the same time while they are scored."""


DRAFT_SEQUENCES = 4
"""That a draft model keeps pages for."""
DRAFT_CONTEXT = 8192
"""Tokens of each of them; a longer text gets no guesses from it."""
DRAFT_PAGE = 16


def dtype_bytes(dtype: str) -> int:
    """Bytes of one element; an unknown dtype counts as the widest, so that no promise is too large."""
    return _DTYPE_BYTES.get(dtype, 8)


@dataclass(frozen=True, slots=True)
class WorkspaceOptions:
    """How large the largest step may be; the workspace follows from it."""

    prefill_tokens: int = 512
    """Most prompt tokens in one step."""
    samples: int = SCORED_AT_ONCE
    """Most rows of logits at a time: sequences that are sampled in one step, or tokens of prompts that are scored."""
    beside_bytes: int = 0
    """Of a draft model. It is set aside for every stage, since any may come to be the first."""

    def of_steps(self, prefill_tokens: int = 0, batch: int = 0) -> "WorkspaceOptions":
        """For steps of so many prompt tokens and sequences, as a plan says it; with 0 it leaves them to these."""
        return replace(self, prefill_tokens=prefill_tokens or self.prefill_tokens, samples=max(self.samples, batch))


def workspace_of(settings: WorkSettings, options: WorkspaceOptions = WorkspaceOptions()) -> WorkspaceOptions:
    """For the steps of a pipeline with these settings; what they leave open is as in `options`."""
    if not isinstance(settings, ServeSettings):
        return options
    return options.of_steps(settings.prefill_tokens, settings.batch)


def workspace_bytes(shape: ModelShape, last: int, options: WorkspaceOptions) -> int:
    """Scratch space of a stage that ends before layer `last`: activations of its widest layer, and logits on the last.

    A layer's multiplications write (FLOPs per token) / (2 x hidden size) numbers per token altogether; nothing of
    another layer is alive at the same time but the hidden state. Logits are held twice while they are sampled, or
    scored, which comes before.
    """
    widest = max(shape.layer_flops_per_token, default=0) // (2 * shape.hidden_size) + 2 * shape.hidden_size
    activations = options.prefill_tokens * widest * dtype_bytes(shape.dtype)
    logits = 2 * options.samples * shape.vocab_size * _LOGITS_BYTES if last == shape.num_layers else 0
    plain = PLAIN_BYTES if shape.few_bits or shape.packing else 0
    return activations + logits + options.beside_bytes + plain


def device_bytes(
    shape: ModelShape, first: int, last: int, cache_tokens: int, options: WorkspaceOptions, devices: int = 1
) -> tuple[int, int, int]:
    """Weights, cache and workspace of each device that holds layers [first, last) with `cache_tokens` tokens of cache.

    `devices` is the tensor-parallel degree. The workspace is not split: a device holds whole hidden states.
    """
    weights = -(-shape.weight_bytes(first, last) // devices)
    cache = -(-cache_tokens * shape.cache_bytes_per_token(first, last) // devices)
    return weights, cache, workspace_bytes(shape, last, options)


def stage_bytes(
    shape: ModelShape, first: int, last: int, cache_tokens: int, options: WorkspaceOptions, devices: int = 1
) -> int:
    """Bytes that each device must have for that."""
    return sum(device_bytes(shape, first, last, cache_tokens, options, devices))


def draft_cache_tokens(shape: ModelShape) -> int:
    """Of all pages of a draft model of this shape."""
    context = min(shape.max_context, DRAFT_CONTEXT)
    return DRAFT_SEQUENCES * -(-context // DRAFT_PAGE) * DRAFT_PAGE


def draft_bytes(shape: ModelShape) -> int:
    """What a draft model of this shape takes beside the first stage."""
    return stage_bytes(shape, 0, shape.num_layers, draft_cache_tokens(shape), WorkspaceOptions())
