"""Which codec is meant by which name: from a link's `Codec` to the functions that pack and unpack tensors on it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from muster.compress.raw import decode, encode
from muster.errors import Unsupported
from muster.spec.codec import RAW, Codec
from muster.wire.messages.base import TensorHeader

Packed = bytes | bytearray | memoryview


class Encode(Protocol):
    def __call__(self, tensor: Tensor) -> tuple[TensorHeader, Packed]:
        """Header and bytes. They may be the tensor's own memory: send first, change later."""


class Decode(Protocol):
    def __call__(self, header: TensorHeader, payload: Packed, max_bytes: int) -> Tensor:
        """The tensor on the CPU. Raises `FrameTooLarge` above `max_bytes`, `MalformedFrame` for what cannot be one."""


@dataclass(frozen=True, slots=True)
class Coder:
    """One direction of one link: the sender encodes, the receiver decodes."""

    encode: Encode
    decode: Decode


_MAKERS: Mapping[str, Callable[[Codec], Coder]] = {"raw": lambda codec: Coder(encode, decode)}
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
