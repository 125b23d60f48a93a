"""What a model costs, layer by layer, without its weights. Knows nothing of torch or files."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of a decoder-only language model. All bytes are for `dtype` as served.

    `layer_bytes`, `layer_flops_per_token` and `kv_bytes_per_token` hold one entry per layer. `head_bytes` counts the
    final norm and the output projection; with tied embeddings the last stage holds that matrix a second time.
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

    def weight_bytes(self, first: int, last: int) -> int:
        """Bytes of the weights of layers [first, last), with embedding and head where the stage has them."""
        total = sum(self.layer_bytes[first:last])
        if first == 0:
            total += self.embedding_bytes
        if last == self.num_layers:
            total += self.head_bytes
        return total

    def flops_per_token(self, first: int, last: int) -> int:
        """Forward FLOPs of one token through layers [first, last), attention over the context left out."""
        total = sum(self.layer_flops_per_token[first:last])
        return total + (self.head_flops_per_token if last == self.num_layers else 0)

    def cache_bytes_per_token(self, first: int, last: int) -> int:
        return sum(self.kv_bytes_per_token[first:last])
