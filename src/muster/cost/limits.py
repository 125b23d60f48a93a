"""What a configuration says about how a model is run: how long a text may be, and how its weights are packed.

One function each, for whoever plans a model by its config.json alone and for whoever serves it. Knows no architecture.
"""

from collections.abc import Mapping
from typing import Any

from muster.cost.config_fields import Fields

DEFAULT_CONTEXT = 2048
"""For the rare configuration that names no limit and whose family has none."""
CONTEXT_ENTRIES = ("max_position_embeddings", "n_positions", "max_seq_len")
ROPE_ENTRIES = ("rope_parameters", "rope_scaling")
ORIGINAL_ENTRY = "original_max_position_embeddings"


def longest_context(fields: Fields) -> int:
    """The longest sequence that comes out exact.

    Two kinds of rotary scaling (`longrope`, `dynamic`) switch all frequencies once a sequence outgrows the length of
    the original training; keys already in the pages would then be wrong, so they are served up to that length.
    """
    limit = fields.count(*CONTEXT_ENTRIES, default=DEFAULT_CONTEXT)
    rope = fields.value(*ROPE_ENTRIES)
    rope = rope if isinstance(rope, dict) else {}
    for parameters in [rope, *(value for value in rope.values() if isinstance(value, dict))]:
        if parameters.get("rope_type", parameters.get("type")) in ("longrope", "su", "dynamic"):
            limit = min(limit, Fields(parameters).number(ORIGINAL_ENTRY) or fields.number(ORIGINAL_ENTRY) or limit)
    return limit


_PACKING_ENTRIES = ("quantization_config", "compression_config", "quantization")


def packing_entries(entries: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a config.json says of how its weights are quantised; None where they are not."""
    text = entries.get("text_config")
    for one in (entries, text if isinstance(text, dict) else {}):
        for packing in filter(None, map(one.get, _PACKING_ENTRIES)):
            return packing if isinstance(packing, dict) else {"quant_method": str(packing)}
    return None


def packing_of(entries: Mapping[str, Any]) -> str:
    """How the weights of a config.json are quantised, by the name of the method; empty where they are not."""
    says = packing_entries(entries)
    return "" if says is None else str(says.get("quant_method") or f"{says.get('bits', 'some')} bits")[:40]


def unpacked(entries: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of the same model before it was quantised."""
    kept = {key: value for key, value in entries.items() if key not in _PACKING_ENTRIES}
    text = kept.get("text_config")
    return {**kept, "text_config": unpacked(text)} if isinstance(text, dict) else kept
