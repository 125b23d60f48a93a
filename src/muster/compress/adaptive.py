"""AdaTopK: how many of its values each link sends, from how long it takes (the idea of FusionLLM, arXiv 2410.12707).

    r_i = max(1, r T_i / max_j T_j)        where T_i is more than the slowest stage takes, else 1

T_i is the time in which link i sends a message raw, r the ratio of bytes at the slowest link. The paper counts 12 bytes
for a value kept, hence its factor 3; here a kept value takes fewer, and `kept_ratio` undoes it exactly. The paper's
equation is known to this project at second hand, so this is our definition of it.
"""

from collections.abc import Sequence

from torch import Tensor

from muster.compress import raw
from muster.compress.registry import Packed, make_coder
from muster.errors import InvalidRequest, MalformedFrame
from muster.spec.codec import Codec
from muster.wire.messages.base import TensorHeader

TOP_K = "top-k-1/"
_VALUE_BITS, _PLACE_BITS = 16, 32


def byte_ratios(transfer_s: Sequence[float], stage_s: float, ratio: float) -> list[float]:
    """By how much each link's bytes are to shrink. `transfer_s`: raw messages, measured; `stage_s`: the slowest stage.

    `ratio` is that of the slowest link, 1 or more. Links that keep up with the stages get 1. Raises `InvalidRequest`.
    """
    if ratio < 1:
        raise InvalidRequest(f"A ratio of {ratio:g} would make messages longer; give 1 or more.", "ratio")
    slowest = max(transfer_s, default=0.0)
    return [max(1.0, ratio * seconds / slowest) if seconds > stage_s else 1.0 for seconds in transfer_s]


def kept_ratio(byte_ratio: float, value_bits: int = 32) -> float:
    """One value in so many is kept, where raw ones take `value_bits`: 16 bits for each, and a map or a list of places.

    1 where even all values without places would be too long.
    """
    by_map = (value_bits / byte_ratio - 1) / _VALUE_BITS
    by_list = value_bits / byte_ratio / (_VALUE_BITS + _PLACE_BITS)
    return 1 / min(1.0, max(by_map, by_list))


class AdaptiveTopK:
    """Both ends of one direction of a link; implements `Encode` and `Decode`. Raw until it is told to shrink."""

    def __init__(self) -> None:
        self._coder = make_coder(None)

    def shrink(self, byte_ratio: float) -> None:
        """From the next message on. 1 sends raw."""
        name = f"{TOP_K}{kept_ratio(byte_ratio):.3f}" if byte_ratio > 1 else raw.CODEC
        self._coder = make_coder(Codec(name))

    def encode(self, tensor: Tensor) -> tuple[TensorHeader, Packed]:
        return self._coder.encode(tensor)

    def decode(self, header: TensorHeader, payload: Packed, max_bytes: int) -> Tensor:
        """Whatever the ratio: it is in the header."""
        if header.codec != raw.CODEC and not header.codec.startswith(TOP_K):
            raise MalformedFrame(f"A tensor came in codec {header.codec[:20]!r} on a link that carries top-k.")
        return make_coder(Codec(header.codec)).decode(header, payload, max_bytes)
