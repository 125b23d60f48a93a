"""What a model costs, layer by layer, without its weights. Knows nothing of torch or files."""

from dataclasses import dataclass, field

from muster.spec.few_bits import AS_STORED, FewBits


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of a decoder-only language model. All bytes are for `dtype` as served.

    `layer_bytes`, `layer_flops_per_token` and `kv_bytes_per_token` hold one entry per layer. `head_bytes` counts the
    final norm and the output projection. With tied embeddings both count the one matrix: the first and the last stage
    each hold it, and a stage with both ends holds it once (`tied_bytes`).
    """

    name: str
    architecture: str
    dtype: str
    num_layers: int
    hidden_size: int
    vocab_size: int
    max_context: int
    layer_bytes: tuple[int, ...]
    layer_flops_per_token: tuple[int, ...]
    kv_bytes_per_token: tuple[int, ...]
    embedding_bytes: int
    head_bytes: int
    head_flops_per_token: int
    attention_flops_per_pair: tuple[int, ...] = ()
    """Per layer: forward FLOPs of one token looking at one cached token. Empty where nobody has worked it out."""
    windows: tuple[int, ...] = ()
    """Per layer: the cached tokens that a token sees, itself among them; 0 is all of them. Empty: all, everywhere."""
    expert_bytes: tuple[int, ...] = ()
    """Per layer: what of `layer_bytes` are routed experts. Empty: none."""
    num_experts: int = 0
    experts_per_token: int = 0
    saved_bytes_per_token: tuple[int, ...] = ()
    """Per layer: what training keeps of a token for the way back. Empty where nobody has worked it out."""
    tied_bytes: int = 0
    """What `embedding_bytes` and `head_bytes` have in common."""
    degrees: tuple[int, ...] | None = field(default=None, compare=False)
    """Of tensor parallelism, above 1, at which it can be cut. None where nobody has worked it out."""
    packing: str = ""
    """How its weights are published where that is in few bits (`gptq`, `awq` …)."""
    few_bits: FewBits = AS_STORED
    """What of it is held in fewer bits than the checkpoint and `dtype` say; all bytes are for that."""

    def weight_bytes(self, first: int, last: int) -> int:
        """Bytes of the weights of layers [first, last), with embedding and head where the stage has them."""
        total = sum(self.layer_bytes[first:last])
        if first == 0:
            total += self.embedding_bytes
        if last == self.num_layers:
            total += self.head_bytes
        if first == 0 and last == self.num_layers:
            total -= self.tied_bytes
        return total

    def read_bytes(self, first: int, last: int) -> int:
        """Bytes of the weights that a step reads whole; of the embedding it reads single rows, which do not count."""
        return sum(self.layer_bytes[first:last]) + (self.head_bytes if last == self.num_layers else 0)

    def flops_per_token(self, first: int, last: int) -> int:
        """Forward FLOPs of one token through layers [first, last), attention over the context left out."""
        total = sum(self.layer_flops_per_token[first:last])
        return total + (self.head_flops_per_token if last == self.num_layers else 0)

    def cache_bytes_per_token(self, first: int, last: int) -> int:
        return sum(self.kv_bytes_per_token[first:last])
