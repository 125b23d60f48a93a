"""Bytes that a private step moves, by formula. Counted against real frames by the tests; pure arithmetic.

Each token's query goes to beta AttnNodes, its key and value to beta, and beta parts of its output come back:

    per layer   beta T ((N D + K (D + D')) b  +  N (D' + 2) 4)

for T new tokens, N query heads of size D, K key/value heads, values of size D', b bytes of the model's dtype. With as
many key as query heads that is beta T (4 d + 2 H) numbers, Cascade's (arXiv 2507.05228). Client and CompNodes exchange
2 T rows of the hidden size in all. What describes the rows (headers) comes on top, and grows with their number only.
"""

from collections.abc import Sequence

from muster.private.partial import AttnLayer
from muster.spec.token_shards import TokenShards

PARTIAL_BYTES = 4
"""Parts are float32."""


def layer_bytes(rule: TokenShards, layer: AttnLayer, tokens: int, itemsize: int) -> int:
    """Of rows and parts between CompNodes and AttnNodes, for new tokens in one layer."""
    rows = (layer.query_values + layer.key_values) * itemsize
    return rule.shards * tokens * (rows + layer.partial_values * PARTIAL_BYTES)


def step_bytes(rule: TokenShards, layers: Sequence[AttnLayer], tokens: int, itemsize: int, hidden_size: int) -> int:
    """Of all payloads of a step, the client's rows and those that come back to it among them."""
    return sum(layer_bytes(rule, layer, tokens, itemsize) for layer in layers) + 2 * tokens * hidden_size * itemsize


def rounds(layers: Sequence[AttnLayer]) -> int:
    """Round trips one after another in a step: one for each layer, and one between client and CompNodes."""
    return len(layers) + 1
