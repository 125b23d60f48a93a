"""What a codec costs on a link: bytes sent, and the buffers beside the model. Knows nothing of how it encodes."""

from math import ceil

from muster.cost.memory import dtype_bytes
from muster.spec.codec import RAW, Codec
from muster.spec.model_shape import ModelShape


def message_bytes(shape: ModelShape, tokens: int, codec: Codec = RAW) -> int:
    """Bytes of the hidden state of `tokens` tokens on the wire."""
    values = tokens * shape.hidden_size
    return ceil(values * (codec.bits_per_value or 8 * dtype_bytes(shape.dtype)) / 8)


def buffer_bytes(shape: ModelShape, tokens: int, links: int, codec: Codec = RAW) -> int:
    """Bytes that a stage with `links` links sets aside: on each, a message as it was sent, its values, and its state.

    One message is on the wire while the next is made, so both are held twice.
    """
    values = tokens * shape.hidden_size
    each = message_bytes(shape, tokens, codec) + values * dtype_bytes(shape.dtype)
    return links * (2 * each + ceil(values * codec.state_bytes_per_value))
