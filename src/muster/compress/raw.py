"""The codec that changes nothing: a tensor's own bytes, row-major and little endian.

What arrives is not trusted: type, shape and size are checked against each other and against a limit before any memory
is taken.
"""

import math
import sys

import torch
from torch import Tensor

from muster.errors import FrameTooLarge, MalformedFrame
from muster.wire.messages import TensorHeader

CODEC = "raw"
MAX_DIMENSIONS = 8
DTYPES = {
    name: getattr(torch, name)
    for name in ("float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool")
}

assert sys.byteorder == "little", "the wire format is little endian"


def encode(tensor: Tensor) -> tuple[TensorHeader, memoryview]:
    """Header and bytes of `tensor`. The bytes are the tensor's own memory if it is contiguous on the CPU: send first,
    change later."""
    dense = tensor.detach().to("cpu").contiguous()
    header = TensorHeader(dtype=str(dense.dtype).removeprefix("torch."), shape=tuple(dense.shape), codec=CODEC)
    if dense.numel() == 0:
        return header, memoryview(b"")
    # NumPy has no bfloat16, so the bytes are taken as such.
    return header, memoryview(dense.flatten().view(torch.uint8).numpy())


def decode(header: TensorHeader, payload: bytes | bytearray | memoryview, max_bytes: int) -> Tensor:
    """The tensor on the CPU, in memory of its own.

    Raises `FrameTooLarge` above `max_bytes`, `MalformedFrame` when header and payload do not agree.
    """
    dtype = DTYPES.get(header.dtype)
    if header.codec != CODEC or dtype is None:
        raise MalformedFrame(
            f"A tensor came as {header.dtype[:20]!r} in codec {header.codec[:20]!r}, which this version does not read; "
            "update both machines."
        )
    if len(header.shape) > MAX_DIMENSIONS or any(size < 0 for size in header.shape):
        raise MalformedFrame("A tensor came with an impossible shape; update both machines.")
    nbytes = math.prod(header.shape) * dtype.itemsize
    # A zero hides the other sizes from the product; torch would still choke on them.
    if max(nbytes, *header.shape, 0) > max_bytes:
        raise FrameTooLarge(f"A tensor of {nbytes} bytes came where at most {max_bytes} are expected; send less.")
    if nbytes != len(payload):
        raise MalformedFrame(
            f"A tensor of {nbytes} bytes came with {len(payload)} bytes of data; the sender is broken."
        )
    if nbytes == 0:
        return torch.empty(header.shape, dtype=dtype)
    return torch.frombuffer(bytearray(payload), dtype=dtype).view(header.shape)


def expect(header: TensorHeader, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Raise `MalformedFrame` unless the header announces exactly this tensor. Call it before `decode`."""
    if DTYPES.get(header.dtype) != dtype or header.shape != shape:
        raise MalformedFrame(
            f"A tensor came as {header.dtype[:20]} {header.shape[:MAX_DIMENSIONS]} where {str(dtype)[6:]} {shape} is "
            "due; the sender is broken."
        )
