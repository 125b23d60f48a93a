"""What one decoder layer is made of, counted: matrices, vectors, experts, heads. Knows no architecture by name.

Training keeps of every token what the way back needs: the input of each multiplication, both operands of each product,
queries, keys, values and the attention's output (Korthikanti et al., "Reducing Activation Recomputation in Large
Transformer Models", 2022, count the same by operator; here attention never writes its square of scores).
"""

from dataclasses import dataclass

Matrix = tuple[int, int]
"""Inputs, outputs."""


@dataclass(frozen=True, slots=True)
class Heads:
    """What attention works on."""

    queries: int
    keys: int
    """Heads of keys and of values."""
    key_size: int
    value_size: int
    window: int = 0
    """0: sees everything."""
    cached: bool = True
    """False for encoders, which see the whole text at once and keep nothing."""

    @property
    def values_per_token(self) -> int:
        return self.keys * (self.key_size + self.value_size) if self.cached else 0

    @property
    def flops_per_pair(self) -> int:
        """A score costs two FLOPs per entry of a key, and so does weighing a value."""
        return 2 * self.queries * (self.key_size + self.value_size)


@dataclass(frozen=True, slots=True)
class Experts:
    count: int
    chosen: int
    matrices: tuple[Matrix, ...]
    """Of each expert."""
    vector: int = 0
    """Numbers in the biases of each expert."""


@dataclass(frozen=True, slots=True)
class LayerSizes:
    heads: Heads
    matrices: tuple[Matrix, ...]
    vector: int
    """Numbers in norms and biases."""
    wide: int = 0
    """Numbers that stay in float32 whatever the dtype is."""
    experts: Experts | None = None
    saved_mlp: int = 0
    """Values that the multilayer perceptron keeps of a token, its input left out."""
    saved_norms: int = 0
    """Values that the norms keep of a token in the model's dtype, their outputs among them."""
    saved_wide: int = 0
    """Values that are kept in float32."""

    def bytes(self, itemsize: int) -> int:
        own = (sum(rows * columns for rows, columns in self.matrices) + self.vector) * itemsize + 4 * self.wide
        return own + self.expert_bytes(itemsize)

    def expert_bytes(self, itemsize: int) -> int:
        if self.experts is None:
            return 0
        each = sum(rows * columns for rows, columns in self.experts.matrices) + self.experts.vector
        return self.experts.count * each * itemsize

    def flops_per_token(self) -> int:
        """Forward, two per weight that works; attention over the context left out."""
        total = 2 * sum(rows * columns for rows, columns in self.matrices)
        if self.experts is not None:
            total += 2 * self.experts.chosen * sum(rows * columns for rows, columns in self.experts.matrices)
        return total

    def saved_bytes_per_token(self, itemsize: int) -> int:
        attention = (self.heads.queries + self.heads.keys) * (self.heads.key_size + self.heads.value_size)
        wide = self.saved_wide + self.heads.queries
        return (attention + self.saved_mlp + self.saved_norms) * itemsize + 4 * wide
