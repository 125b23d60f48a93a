"""Tensors as bytes: digests that bind dtype, shape and every bit, and a form that travels. Knows no operator."""

import math

import torch
from torch import Tensor

from muster.errors import ProtocolViolation
from muster.verify.disputes.program import tensor_digest

MAX_BYTES = 2**30
"""Of one tensor."""
MAX_DIMS = 12
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128,
        torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
    )
}  # fmt: skip


def dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def raw(tensor: Tensor) -> bytes:
    """Row-major, little endian."""
    plain = tensor.detach().cpu().resolve_conj().contiguous()
    return plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""


def digest(tensor: Tensor) -> bytes:
    """32 bytes that bind what is in the tensor and how it is read."""
    return tensor_digest(dtype_name(tensor), tuple(tensor.shape), raw(tensor))


def size_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Raise `ProtocolViolation` for a dtype or a size that no disputed tensor has."""
    if dtype not in DTYPES:
        raise ProtocolViolation(f"A tensor of a dispute has the dtype {dtype[:20]!r}, which is unknown; update Muster.")
    if len(shape) > MAX_DIMS or any(not 0 <= side <= MAX_BYTES for side in shape):
        raise ProtocolViolation("A tensor of a dispute has a shape that cannot be; its sender does not run Muster.")
    size = math.prod(shape) * DTYPES[dtype].itemsize
    if size > MAX_BYTES:
        raise ProtocolViolation(
            f"A tensor of a dispute takes {size} bytes, more than the {MAX_BYTES} allowed; dispute a shorter prompt."
        )
    return size


def from_raw(dtype: str, shape: tuple[int, ...], data: bytes) -> Tensor:
    """Raise `ProtocolViolation` unless the bytes are exactly those of such a tensor."""
    size = size_bytes(dtype, shape)
    if len(data) != size:
        raise ProtocolViolation(
            f"A tensor of a dispute has {len(data)} bytes where its shape needs {size}; it was cut or changed."
        )
    if not size:
        return torch.empty(shape, dtype=DTYPES[dtype])
    return torch.frombuffer(bytearray(data), dtype=DTYPES[dtype]).reshape(shape)
