"""What one decoder layer is made of, counted: matrices, vectors, experts, heads. Knows no architecture by name.

Training keeps of every token what the way back needs: the input of each multiplication, both operands of each product,
queries, keys, values and the attention's output (Korthikanti et al., "Reducing Activation Recomputation in Large
Transformer Models", 2022, count the same by operator; here attention never writes its square of scores).
"""

from dataclasses import dataclass

from muster.cost.few_bits import FEWEST_OUTPUTS, BlockFormat, vector_bytes

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

    def cache_bytes(self, itemsize: int, kept: str) -> int:
        """Of a token, in pages of this format (`few_bits.vector_bytes`)."""
        each = vector_bytes(self.key_size, itemsize, kept) + vector_bytes(self.value_size, itemsize, kept)
        return self.keys * each if self.cached else 0

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
    kept: tuple[Matrix, ...] = ()
    """Matrices that stay as they are where others are held in few bits."""
    wide: int = 0
    """Numbers that stay in float32 whatever the dtype is."""
    experts: Experts | None = None
    saved_mlp: int = 0
    """Values that the multilayer perceptron keeps of a token, its input left out."""
    saved_norms: int = 0
    """Values that the norms keep of a token in the model's dtype, their outputs among them."""
    saved_wide: int = 0
    """Values that are kept in float32."""

    def bytes(self, itemsize: int, form: BlockFormat | None = None, expert_form: BlockFormat | None = None) -> int:
        """`form`: that of matrices in few bits; `expert_form`: likewise of experts."""
        own = _matrix_bytes(self.matrices, itemsize, form) + _matrix_bytes(self.kept, itemsize, None)
        return own + self.vector * itemsize + 4 * self.wide + self.expert_bytes(itemsize, expert_form)

    def expert_bytes(self, itemsize: int, form: BlockFormat | None = None) -> int:
        if self.experts is None:
            return 0
        each = _matrix_bytes(self.experts.matrices, itemsize, form) + self.experts.vector * itemsize
        return self.experts.count * each

    def flops_per_token(self) -> int:
        """Forward, two per weight that works; attention over the context left out."""
        total = 2 * sum(rows * columns for rows, columns in self.matrices + self.kept)
        if self.experts is not None:
            total += 2 * self.experts.chosen * sum(rows * columns for rows, columns in self.experts.matrices)
        return total

    def saved_bytes_per_token(self, itemsize: int) -> int:
        attention = (self.heads.queries + self.heads.keys) * (self.heads.key_size + self.heads.value_size)
        wide = self.saved_wide + self.heads.queries
        return (attention + self.saved_mlp + self.saved_norms) * itemsize + 4 * wide


def _matrix_bytes(matrices: tuple[Matrix, ...], itemsize: int, form: BlockFormat | None) -> int:
    return sum(
        inputs * outputs * itemsize
        if form is None or outputs < FEWEST_OUTPUTS
        else form.bytes_of(outputs, inputs, itemsize)
        for inputs, outputs in matrices
    )
