"""Which codec is meant by which name: from a link's `Codec` to the functions that pack and unpack tensors on it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from muster.compress import raw
from muster.compress.blocks import LARGEST, BlockwiseCodec
from muster.compress.cast import CASTS, Cast
from muster.errors import MalformedFrame, Unsupported
from muster.spec.codec import RAW, Codec
from muster.wire.messages.base import TensorHeader

Packed = bytes | bytearray | memoryview


class Encode(Protocol):
    def __call__(self, tensor: Tensor) -> tuple[TensorHeader, Packed]:
        """Header and bytes. They may be the tensor's own memory: send first, change later.

        A codec that loses something raises `MachineTrouble` for what is no number.
        """


class Decode(Protocol):
    def __call__(self, header: TensorHeader, payload: Packed, max_bytes: int) -> Tensor:
        """The tensor on the CPU. Raises `FrameTooLarge` above `max_bytes`, `MalformedFrame` for what cannot be one."""


@dataclass(frozen=True, slots=True)
class Coder:
    """One direction of one link: the sender encodes, the receiver decodes.

    What comes may also be raw: while a codec is compared with raw values, its link carries both.
    """

    encode: Encode
    decode: Decode


PLAIN = Coder(raw.encode, raw.decode)


def _following_header(name: str, encode: Encode, decode: Decode) -> Coder:
    def decode_either(header: TensorHeader, payload: Packed, max_bytes: int) -> Tensor:
        if header.codec == raw.CODEC:
            return raw.decode(header, payload, max_bytes)
        if header.codec != name:
            raise MalformedFrame(f"A tensor came in codec {header.codec[:20]!r} on a link that carries {name}.")
        return decode(header, payload, max_bytes)

    return Coder(encode, decode_either)


def _cast(codec: Codec) -> Coder:
    cast = Cast(codec.name)
    return _following_header(codec.name, cast.encode, cast.decode)


def _blocks(codec: Codec) -> Coder:
    blocks = BlockwiseCodec(codec.name)
    return _following_header(codec.name, blocks.encode, blocks.decode)


_MAKERS: Mapping[str, Callable[[Codec], Coder]] = {
    raw.CODEC: lambda codec: PLAIN,
    **dict.fromkeys(CASTS, _cast),
    **dict.fromkeys(LARGEST, _blocks),
}
"""A maker is called once for each use of a link, so that a codec may keep what it needs from tensor to tensor."""


def check_known(codec: Codec) -> None:
    """Raise `Unsupported` for a codec that this version does not have."""
    if codec.name not in _MAKERS:
        known = ", ".join(_MAKERS)
        raise Unsupported(
            f"The codec {codec.name[:40]!r} is unknown here (known: {known}); update Muster on this node."
        )


def make_coder(codec: Codec | None) -> Coder:
    """For a link that carries `codec`; None carries raw values. Raises `Unsupported`."""
    codec = codec or RAW
    check_known(codec)
    return _MAKERS[codec.name](codec)
