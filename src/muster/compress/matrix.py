"""What codecs that lose something have in common: a tensor as rows of floats, and headers that are not believed.

The last dimension of a tensor is one row (of a hidden state: a token); all others together count the rows. Rows are
taken a few at a time, so that what is made on the way stays in the processor's cache and needs no memory to speak of.
"""

from collections.abc import Iterator
from math import prod

import torch
from torch import Tensor

from muster.errors import FrameTooLarge, MachineTrouble, MalformedFrame, Unsupported
from muster.wire.messages.base import TensorHeader
from muster.wire.tensor import tensor_bytes

DTYPES = {name: getattr(torch, name) for name in ("float32", "float16", "bfloat16")}
_AT_ONCE_BYTES = {"cpu": 2**20}
_AT_ONCE_ELSEWHERE_BYTES = 2**24
"""Of float32, that are worked on at a time; a device of its own has more to do with each of its starts."""


def size(shape: tuple[int, ...]) -> tuple[int, int]:
    """(rows, values in each)."""
    return (prod(shape[:-1]), shape[-1]) if shape else (1, 1)


def header_of(tensor: Tensor, codec: str) -> TensorHeader:
    """Raises `Unsupported` for what holds no floats."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise Unsupported(f"Codec {codec} packs {', '.join(DTYPES)} and not {dtype}; send it raw.")
    return TensorHeader(dtype=dtype, shape=tuple(tensor.shape), codec=codec)


def checked(header: TensorHeader, max_bytes: int) -> tuple[torch.dtype, int, int]:
    """(dtype, rows, values in each) of the decoded tensor, before any memory is taken for it.

    Raises `FrameTooLarge` above `max_bytes`, `MalformedFrame` for what cannot be one.
    """
    dtype = DTYPES.get(header.dtype)
    if dtype is None:
        raise MalformedFrame(
            f"A tensor of {header.dtype[:20]!r} came in codec {header.codec[:20]!r}, which packs none."
        )
    nbytes = tensor_bytes(header)
    if nbytes > max_bytes:
        raise FrameTooLarge(f"A tensor of {nbytes} bytes came where at most {max_bytes} are expected; send less.")
    return dtype, *size(header.shape)


def check_length(header: TensorHeader, payload_bytes: int, due: int) -> None:
    """Raises `MalformedFrame` where the payload is not what the header announces."""
    if payload_bytes != due:
        raise MalformedFrame(
            f"A tensor {list(header.shape)} in codec {header.codec} needs {due} bytes and {payload_bytes} came; "
            "install the same version of Muster on both machines."
        )


def not_a_number() -> MachineTrouble:
    """For `raise`: what is no number must never reach another machine, where it would stay in the cache."""
    return MachineTrouble("A hidden state holds what is no number; the model overflows here, or the memory is bad.")


def largest(values: Tensor) -> float:
    """|value|; NaN or infinity where there is one among them. 0 of nothing."""
    if values.numel() == 0:
        return 0.0
    low, high = torch.aminmax(values)
    return float(torch.maximum(high, -low))


def pieces(rows: int, width: int, device: torch.device) -> Iterator[slice]:
    """Of all rows, in order."""
    if not rows * width:
        return
    at_once = max(1, _AT_ONCE_BYTES.get(device.type, _AT_ONCE_ELSEWHERE_BYTES) // (4 * max(1, width)))
    for begin in range(0, rows, at_once):
        yield slice(begin, min(rows, begin + at_once))


def payload_of(packed_N: Tensor) -> memoryview:
    """Its bytes, for the wire."""
    if packed_N.numel() == 0:
        return memoryview(b"")
    return memoryview(packed_N.cpu().numpy())  # type: ignore[arg-type]


def bytes_of(payload: bytes | bytearray | memoryview) -> Tensor:
    """uint8, in memory that belongs to the payload: read it, do not keep it."""
    if not len(payload):
        return torch.empty(0, dtype=torch.uint8)
    # Torch knows no memory that must not be written to.
    return torch.frombuffer(bytearray(payload) if memoryview(payload).readonly else payload, dtype=torch.uint8)


def within(values: Tensor, dtype: torch.dtype) -> Tensor:
    """In `dtype`, where what is beyond its range becomes the end of it and not infinity. May overwrite float32."""
    limit = torch.finfo(dtype).max
    return (values if largest(values) <= limit else values.clamp_(-limit, limit)).to(dtype)
