"""In how few bits a model is held, as an operator asks for it. Names only; `cost/few_bits` knows their sizes."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FewBits:
    """Empty names leave things as the checkpoint and the dtype have them."""

    weights: str = ""
    """What every stage makes of the large matrices while it loads them."""
    cache: str = ""
    """How keys and values are kept in KV pages."""

    def __bool__(self) -> bool:
        return bool(self.weights or self.cache)

    def __str__(self) -> str:
        said = [f"weights in {self.weights}"] if self.weights else []
        return ", ".join([*said, *([f"cache in {self.cache}"] if self.cache else [])])


AS_STORED = FewBits()
