"""Holds a tensor's header against its payload before anybody touches it. Knows nothing of torch.

Hidden states, logits and weights travel as a `TensorHeader` inside a message and raw bytes behind it. The header is a
claim by a peer: it must describe exactly the bytes that came.
"""

from collections.abc import Sequence
from math import prod

from muster.errors import MalformedFrame
from muster.wire.messages.base import TensorHeader

DTYPE_BYTES: dict[str, int] = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}
"""Bytes of one element by torch name."""

MAX_DIMENSIONS = 8
MAX_TENSOR_BYTES = 1024 * 1024 * 1024
"""Of the decoded tensor, so that a short payload of a compressing codec cannot ask for all memory."""


def tensor_bytes(header: TensorHeader) -> int:
    """Bytes of the decoded tensor. Raises `MalformedFrame` if the header makes no sense or promises too much."""
    if header.dtype not in DTYPE_BYTES:
        raise _malformed(f"has the unknown dtype {header.dtype!r}")
    if len(header.shape) > MAX_DIMENSIONS:
        raise _malformed(f"has {len(header.shape)} dimensions where {MAX_DIMENSIONS} are allowed")
    if any(size < 0 for size in header.shape):
        raise _malformed(f"has the negative size {min(header.shape)}")
    nbytes = prod(header.shape) * DTYPE_BYTES[header.dtype]
    # A zero hides the other sizes from the product; torch would still choke on them.
    if max(nbytes, *header.shape, 0) > MAX_TENSOR_BYTES:
        raise _malformed(f"claims {nbytes} bytes where {MAX_TENSOR_BYTES} are allowed")
    return nbytes


def check_tensor(header: TensorHeader, payload_bytes: int, shape: Sequence[int | None] | None = None) -> int:
    """Bytes of the decoded tensor, once header, payload and expectation agree; else `MalformedFrame`.

    `shape` is what the receiver expects, None for a size that it leaves open. Of a codec other than `raw` only the
    decoded size is checked here; the codec knows how long its payload must be.
    """
    nbytes = tensor_bytes(header)
    if header.codec == "raw" and nbytes != payload_bytes:
        raise _malformed(f"needs {nbytes} bytes and {payload_bytes} came")
    if shape is not None and not _fits(header.shape, shape):
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise _malformed(f"has shape {list(header.shape)} where [{wanted}] was due")
    return nbytes


def _fits(shape: Sequence[int], expected: Sequence[int | None]) -> bool:
    return len(shape) == len(expected) and all(
        want is None or size == want for size, want in zip(shape, expected, strict=True)
    )


def _malformed(what: str) -> MalformedFrame:
    return MalformedFrame(f"A tensor from the peer {what}; install the same version of Muster on both machines.")
