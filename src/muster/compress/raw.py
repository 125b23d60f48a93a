"""The codec that changes nothing: a tensor's own bytes, row-major and little endian.

What arrives is not trusted: type, shape and size are checked against each other and against a limit before any memory
is taken.
"""

import sys

import torch
from torch import Tensor

from muster.errors import FrameTooLarge, MalformedFrame
from muster.wire.messages.base import TensorHeader
from muster.wire.tensor import check_tensor, tensor_bytes

CODEC = "raw"
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
    return header, memoryview(dense.flatten().view(torch.uint8).numpy())  # type: ignore[arg-type]


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
    nbytes = tensor_bytes(header)
    if nbytes > max_bytes:
        raise FrameTooLarge(f"A tensor of {nbytes} bytes came where at most {max_bytes} are expected; send less.")
    check_tensor(header, len(payload))
    if nbytes == 0:
        return torch.empty(header.shape, dtype=dtype)
    return torch.frombuffer(bytearray(payload), dtype=dtype).view(header.shape)


def expect(header: TensorHeader, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Raise `MalformedFrame` unless the header announces exactly this tensor. Call it before `decode`."""
    if DTYPES.get(header.dtype) != dtype:
        raise MalformedFrame(
            f"A tensor came as {header.dtype[:20]} where {str(dtype)[6:]} is due; update both machines."
        )
    check_tensor(header, tensor_bytes(header), shape)
