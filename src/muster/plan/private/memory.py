"""Bytes that a machine of a private session takes, in the head's books and in the machine's own. Pure arithmetic."""

from collections.abc import Collection

from muster.spec.model_shape import ModelShape
from muster.spec.plan import PrivateSettings

GROWTH = 2
"""Room for keys and values doubles when it is used up."""
BYTES_PER_NUMBER = 4
WIDTHS = 16
"""Hidden states and projections of a layer that a CompNode holds at once, in widths of a hidden state."""
LEAST_HEAD = 32
"""Heads are at least so wide; each has scores of its own."""
SCORES = 3
"""Copies of them while they are weighed."""


def private_bytes(shape: ModelShape, settings: PrivateSettings, roles: Collection[int]) -> int:
    """Weights of all layers, keys and values of the AttnNodes, and the rows of a step."""
    rule, width = settings.rule, shape.hidden_size * BYTES_PER_NUMBER
    attending = sum(not rule.is_comp(role) for role in roles)
    cache = cache_rows(settings) * shape.cache_bytes_per_token(0, shape.num_layers) * GROWTH
    rows = -(-settings.max_tokens // rule.comp_nodes) + rule.cluster
    queries = -(-settings.max_tokens // rule.shards) + rule.cluster
    computing = rows * width * (WIDTHS + rule.shards)
    scores = SCORES * queries**2 * (-(-width // LEAST_HEAD))
    at_once = queries * width * 4 + scores  # AttnNodes of one machine compute one after the other
    weights = shape.weight_bytes(0, shape.num_layers)
    return weights + attending * cache + (len(roles) - attending) * computing + at_once


def cache_rows(settings: PrivateSettings) -> int:
    """Keys that an AttnNode holds at most: its shard of all tokens, whose last clusters may be whole."""
    rule = settings.rule
    return -(-settings.cache_tokens // rule.shards) + rule.cluster * (settings.cache_tokens // settings.max_tokens + 1)
