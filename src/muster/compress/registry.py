"""Which codec is meant by which name: from a link's `Codec` to the functions that pack and unpack tensors on it."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from muster.compress import raw
from muster.compress.blocks import LARGEST, BlockwiseCodec
from muster.compress.cast import CASTS, Cast
from muster.compress.chunks import ChunkCodec
from muster.compress.lowrank import LowRankCodec
from muster.compress.sparse import Choice, SparseCodec
from muster.compress.tiles import CODEC as TILES
from muster.compress.tiles import TileCodec
from muster.compress.uniform import Share, UniformCodec
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


class _Codec(Protocol):
    def encode(self, tensor: Tensor) -> tuple[TensorHeader, Packed]: ...

    def decode(self, header: TensorHeader, payload: Packed, max_bytes: int) -> Tensor: ...


_Maker = Callable[[re.Match[str], int], _Codec]
"""Of the name, taken apart, and a seed."""
KNOWN = (
    "raw, fp32, bf16, fp16, int8, int4, tile-4, rank-R, top-k-1/R, random-k-1/R, chunk-top-k-1/R, and channel-B, "
    "token-B and group-B of 1 to 8 bits, also with -stochastic"
)
_RATIO = r"1/([1-9][0-9]{0,5}(?:\.[0-9]{1,6})?)"
_MAKERS: tuple[tuple[str, _Maker], ...] = (
    ("|".join(CASTS), lambda name, seed: Cast(name[0])),
    ("|".join(LARGEST), lambda name, seed: BlockwiseCodec(name[0])),
    (r"(channel|token|group)-([1-8])(-stochastic)?", lambda name, seed: _uniform(name, seed)),
    (TILES, lambda name, seed: TileCodec()),
    (f"(top|random)-k-{_RATIO}", lambda name, seed: _sparse(name, seed)),
    (f"chunk-top-k-{_RATIO}", lambda name, seed: ChunkCodec(name[0], float(name[1]))),
    (r"rank-([1-9][0-9]{0,3})", lambda name, seed: LowRankCodec(name[0], int(name[1]), seed)),
)
"""A maker is called once for each use of a link, so that a codec may keep what it needs from tensor to tensor."""


def _uniform(name: re.Match[str], seed: int) -> UniformCodec:
    share: Share = name[1]  # type: ignore[assignment]
    return UniformCodec(name[0], share, int(name[2]), bool(name[3]), seed)


def _sparse(name: re.Match[str], seed: int) -> SparseCodec:
    choice: Choice = name[1]  # type: ignore[assignment]
    return SparseCodec(name[0], choice, float(name[2]), seed)


def _maker(name: str) -> tuple[re.Match[str], _Maker] | None:
    for pattern, maker in _MAKERS:
        if found := re.fullmatch(pattern, name):
            return found, maker
    return None


def check_known(codec: Codec) -> None:
    """Raise `Unsupported` for a codec that this version does not have."""
    if codec.name != raw.CODEC and _maker(codec.name) is None:
        raise Unsupported(
            f"The codec {codec.name[:40]!r} is unknown here (known: {KNOWN}); update Muster on this node."
        )


def make_coder(codec: Codec | None, seed: int = 0) -> Coder:
    """For a link that carries `codec`; None carries raw values. Codecs that draw noise draw it from `seed`.

    Raises `Unsupported`.
    """
    codec = codec or RAW
    check_known(codec)
    found = _maker(codec.name)
    if found is None:
        return PLAIN
    name, maker = found
    made = maker(name, seed)
    return _following_header(codec.name, made.encode, made.decode)
