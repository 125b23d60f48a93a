"""A configuration of the same architecture, small enough to run in a blink. Knows field names, not families.

What changes the computation stays: layer types, activation, norms, soft-caps, scaling, tied embeddings. What only makes
it large goes. Windows become shorter than the rehearsed sequences, so that a window that is ignored shows.
"""

from math import gcd
from typing import Any

NUM_LAYERS = 4
VOCAB_SIZE = 96
HEADS = 4
HEAD_SIZE = 16
WINDOW = 8
MAX_POSITIONS = 64

SIZES = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": HEADS * HEAD_SIZE,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": HEADS,
    "head_dim": HEAD_SIZE,
    "intermediate_size": 48,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 24,
    "ffn_dim": 48,
    "n_inner": 48,
    "ffn_hidden_size": 48,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
    "sliding_window": WINDOW,
    "attention_chunk_size": WINDOW,
    "local_attention_window": WINDOW,
    "local_attention": WINDOW,
    "window_size": WINDOW,
    "index_topk": WINDOW,
    "index_topk_blocks": 2,
    "index_block_size": 4,
}
"""Applied to every field that the configuration has and that is a positive integer larger than this."""

CUT_SIZES = frozenset(
    {
        "hidden_size",
        "num_attention_heads",
        "intermediate_size",
        "moe_intermediate_size",
        "shared_expert_intermediate_size",
        "ffn_dim",
        "n_inner",
        "ffn_hidden_size",
    }
)
"""Of these, every member of an island has a part; as they stand they make two parts."""

EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
EXPERTS_PER_TOKEN = ("num_experts_per_tok", "experts_per_token", "moe_topk", "moe_top_k", "moe_k")
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id")
LISTS_PER_LAYER = ("layer_types", "mlp_layer_types", "no_rope_layers", "layers_block_type", "attention_layers")


def shrink(fields: dict[str, Any], attribute_map: dict[str, str], degree: int = 1) -> dict[str, Any]:
    """`fields` as in config.json; `attribute_map` (standard name -> the family's own) as its class declares it.

    What comes out can be cut into `degree` parts where the model itself can.
    """
    small = dict(fields)
    count = int(_get(small, "num_hidden_layers", attribute_map) or NUM_LAYERS)
    layers = _representative_layers(small, count)
    heads = int(_get(small, "num_attention_heads", attribute_map) or HEADS)
    for standard, size in SIZES.items():
        key = attribute_map.get(standard, standard)
        value = small.get(key)
        if standard in CUT_SIZES:
            size = size * max(2, degree) // 2
        if isinstance(value, int) and not isinstance(value, bool) and value > size:
            small[key] = size
    positions = attribute_map.get("max_position_embeddings", "max_position_embeddings")
    if positions in small:
        small[positions] = MAX_POSITIONS  # upwards too: the rehearsed sequences must fit
    _shrink_kv_heads(small, heads, degree)
    _shrink_experts(small, attribute_map)
    _shrink_rope(small)
    _shrink_layer_lists(small, layers, count, attribute_map)
    rotary = fields.get("qk_rope_head_dim")
    if rotary and fields.get("head_dim") == rotary:  # DeepSeek calls the rotary part of a head the head
        small["head_dim"] = small["qk_rope_head_dim"]
    for key in TOKEN_IDS:
        if isinstance(small.get(key), int):
            small[key] = min(small[key], VOCAB_SIZE - 1)
        elif isinstance(small.get(key), list):
            small[key] = [min(token, VOCAB_SIZE - 1) for token in small[key]]
    return small


def _get(fields: dict[str, Any], name: str, attribute_map: dict[str, str]) -> Any:
    return fields.get(attribute_map.get(name, name))


def _representative_layers(fields: dict[str, Any], count: int) -> list[int]:
    """Up to `NUM_LAYERS` layers with every kind among them, in order: first one of each kind, then the earliest."""
    lists = [fields[key] for key in LISTS_PER_LAYER if isinstance(fields.get(key), list) and len(fields[key]) == count]
    kinds = list(zip(*lists, strict=True)) if lists else [()] * count
    firsts = sorted({kind: index for index, kind in reversed(list(enumerate(kinds)))}.values())
    rest = [index for index in range(count) if index not in firsts]
    return sorted((firsts + rest)[:NUM_LAYERS])


def _shrink_kv_heads(fields: dict[str, Any], heads: int, degree: int) -> None:
    for key in ("num_key_value_heads", "num_kv_heads", "multi_query_group_num"):
        value = fields.get(key)
        if isinstance(value, int) and not isinstance(value, bool):
            grouped = 2 if degree <= 2 else gcd(value, degree)  # fewer than the degree where the model has fewer
            fields[key] = min(HEADS * max(2, degree) // 2, heads) if value >= heads else 1 if value == 1 else grouped


def _shrink_experts(fields: dict[str, Any], attribute_map: dict[str, str]) -> None:
    for standard in EXPERT_COUNTS:
        key = attribute_map.get(standard, standard)
        if isinstance(fields.get(key), int) and fields[key] > 4:
            fields[key] = 4
    for standard in EXPERTS_PER_TOKEN:
        key = attribute_map.get(standard, standard)
        if isinstance(fields.get(key), int) and fields[key] > 2:
            fields[key] = 2
    if isinstance(fields.get("n_group"), int) and fields["n_group"] > 1:
        fields["n_group"], fields["topk_group"] = 2, 1
    if isinstance(fields.get("first_k_dense_replace"), int):
        fields["first_k_dense_replace"] = min(fields["first_k_dense_replace"], 1)


def _shrink_rope(fields: dict[str, Any]) -> None:
    """Keep the kind of rotary scaling; its per-frequency lists must fit the smaller head."""
    for key in ("rope_scaling", "rope_parameters"):
        if isinstance(fields.get(key), dict):
            fields[key] = {name: _shrink_rope_entry(name, value) for name, value in fields[key].items()}


def _shrink_rope_entry(name: str, value: Any) -> Any:
    if isinstance(value, dict):  # one set of parameters per layer type
        return {inner: _shrink_rope_entry(inner, entry) for inner, entry in value.items()}
    if name in ("short_factor", "long_factor") and isinstance(value, list):
        return value[: HEAD_SIZE // 2]
    if name == "mrope_section":
        return [HEAD_SIZE // 2 - 4, 2, 2]
    return value


def _shrink_layer_lists(fields: dict[str, Any], layers: list[int], count: int, attribute_map: dict[str, str]) -> None:
    for key, value in fields.items():
        if isinstance(value, list) and len(value) == count and key in LISTS_PER_LAYER:
            fields[key] = [value[layer] for layer in layers]
    key = attribute_map.get("num_hidden_layers", "num_hidden_layers")
    if key in fields:
        fields[key] = len(layers)
