"""What the machines of a network tell each other. Each message says which step, microbatch and value it is about.

On the wire a tensor is its dtype, its shape and its bytes, row by row; nothing in it is trusted before it fits.
"""

import math
from typing import Any

import msgspec
import numpy as np

from muster.errors import ProtocolViolation
from muster.model.backends.base import Array
from muster.model.graph.program import ITEM_BYTES, MOST_BYTES

OUTSIDE = -1
"""Whoever gives the network its inputs and takes what it gives out; every piece has a number from 0 on."""


class PackedArray(msgspec.Struct, frozen=True, array_like=True):
    dtype: str
    shape: tuple[int, ...]
    data: bytes

    @staticmethod
    def of(array: Array) -> "PackedArray":
        return PackedArray(str(array.dtype), array.shape, np.ascontiguousarray(array).tobytes())

    def array(self) -> Array:
        """Raises `ProtocolViolation` unless the bytes are exactly those of such an array."""
        if (
            self.dtype not in ITEM_BYTES
            or self.dtype == "bfloat16"
            or any(not 0 <= side < 2**40 for side in self.shape)
        ):
            raise ProtocolViolation("A message has an array of a dtype or shape that cannot be; update Muster.")
        size = ITEM_BYTES[self.dtype] * math.prod(self.shape)
        if size > MOST_BYTES or size != len(self.data):
            raise ProtocolViolation(f"A message has {len(self.data)} bytes of an array that takes {size}; it was cut.")
        found: Array = np.frombuffer(bytearray(self.data), self.dtype).reshape(self.shape)
        return found


class ArrayMessage(msgspec.Struct, frozen=True):
    source: int
    target: int
    step: int
    name: str
    packed: PackedArray

    @property
    def value(self) -> Array:
        return self.packed.array()


class ValueMessage(ArrayMessage, frozen=True, tag="value", kw_only=True):
    """A value on its way forward."""

    microbatch: int


class GradientMessage(ArrayMessage, frozen=True, tag="gradient", kw_only=True):
    """The gradient of a value on its way back to the piece that made it."""

    microbatch: int


class SharedGradient(ArrayMessage, frozen=True, tag="shared"):
    """The gradient of a parameter that several pieces hold, summed over the microbatches of a step."""


class PieceStepped(msgspec.Struct, frozen=True, tag="done"):
    """The piece has changed its weights."""

    source: int
    step: int


Message = ValueMessage | GradientMessage | SharedGradient | PieceStepped


def encode_message(message: Message) -> bytes:
    return msgspec.msgpack.encode(message)


def decode_message(data: bytes) -> Message:
    """Raises `ProtocolViolation` on anything else."""
    try:
        found: Any = msgspec.msgpack.decode(data, type=Message)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise ProtocolViolation(f"This is no message of a network ({str(error)[:120]}); update Muster.") from error
    return found  # type: ignore[no-any-return]
