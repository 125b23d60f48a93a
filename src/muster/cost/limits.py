"""What a configuration says about how a model is run: how long a text may be, in which dtype, in which packing.

One function each, for whoever plans a model by its config.json alone and for whoever serves it. Knows no architecture.
"""

from collections.abc import Mapping
from typing import Any

from muster.cost.config_fields import Fields
from muster.errors import UnsupportedModel

DTYPES = ("float32", "bfloat16", "float16")
"""That are served."""
DEFAULT_DTYPE = "bfloat16"
DEFAULT_CONTEXT = 2048
"""For the rare configuration that names no limit and whose family has none."""
CONTEXT_ENTRIES = ("max_position_embeddings", "n_positions", "max_seq_len")
ROPE_ENTRIES = ("rope_parameters", "rope_scaling")
_ORIGINAL = "original_max_position_embeddings"
_SERVED_AS = {"float": "float32", "double": "float32", "float64": "float32", "half": "float16"}


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
            limit = min(limit, Fields(parameters).number(_ORIGINAL) or fields.number(_ORIGINAL) or limit)
    return limit


def checkpoint_dtype(fields: Fields) -> str:
    """The dtype that the configuration names, or the one that is served in its place; else `DEFAULT_DTYPE`.

    `auto`, a null or nothing at all leave it open, and so does a dtype that Muster does not know.
    """
    named = str(fields.value("dtype", "torch_dtype")).removeprefix("torch.")
    served = _SERVED_AS.get(named, named)
    return served if served in DTYPES else DEFAULT_DTYPE


def check_dtype(dtype: str) -> str:
    """Raises `UnsupportedModel` on one that is not served."""
    if dtype not in DTYPES:
        raise UnsupportedModel(f"dtype {dtype[:20]!r} is not served; choose one of {', '.join(DTYPES)}.")
    return dtype


def packing_of(entries: Mapping[str, Any]) -> str:
    """How the weights of a config.json are quantised, by the name of the method; empty where they are not."""
    text = entries.get("text_config")
    for one in (entries, text if isinstance(text, dict) else {}):
        for key in ("quantization_config", "compression_config", "quantization"):
            packed = one.get(key)
            if isinstance(packed, dict) and packed:
                bits = packed.get("bits")
                return str(packed.get("quant_method") or (f"{bits} bits" if isinstance(bits, int) else "somehow"))[:40]
            if packed:
                return str(packed)[:40]
    return ""
