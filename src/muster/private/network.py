"""What of a model the roles of a private session have to know, read off its config.json. No weights are read."""

from dataclasses import dataclass

from muster.model.architecture import parse_config
from muster.model.probe import parts_of
from muster.model.shape import max_context
from muster.private.partial import AttnLayer


@dataclass(frozen=True, slots=True)
class PrivateNetwork:
    layers: tuple[AttnLayer, ...]
    windows: tuple[int, ...]
    """The different ones of the layers; 0 is none."""
    max_context: int


def private_network(config_json: str) -> PrivateNetwork:
    """Raises `UnsupportedModel` naming the layers that mix tokens otherwise than by attention."""
    config = parse_config(config_json)
    parts = parts_of(config)
    windows = tuple(sorted(set(parts.windows)))
    layers = tuple(
        AttnLayer(queries, sizes.num_heads, sizes.key_size, sizes.value_size, windows.index(window), softcap)
        for queries, sizes, window, softcap in zip(
            parts.query_heads, parts.head_sizes, parts.windows, parts.softcaps, strict=True
        )
    )
    return PrivateNetwork(layers, windows, max_context(config))
