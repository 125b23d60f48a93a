"""What a pipeline that serves is forecast to do, for whoever chooses among several. Knows no forecast."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Capacity:
    """0 where nothing is known."""

    tokens_per_s: float = 0.0
    """Of a full pipeline."""
    token_s: float = 0.0
    """Between two tokens of a request that has it to itself."""
    pages: int = 0
    """Of cache."""
    page_size: int = 0
    """Tokens in each."""


UNKNOWN = Capacity()
