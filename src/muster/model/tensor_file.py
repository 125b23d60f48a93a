"""One safetensors file: where each tensor lies, checked before anything is read. Knows nothing of models.

Format: 8 bytes (little endian) length of the header, the header (JSON: name -> dtype, shape, data_offsets), the data.
We read it ourselves, and not through the library, because other machines ask for byte ranges.
"""

import json
import math
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from muster.errors import WeightsInvalid

MAX_HEADER_BYTES = 100_000_000
MOST_DIMENSIONS, MOST_BYTES = 16, 2**60
"""To multiply a million digits would take for ever."""
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True, slots=True)
class Span:
    """A tensor's bytes: [start, stop) of the file."""

    dtype: str
    """As the file names it (`BF16`)."""
    shape: tuple[int, ...]
    start: int
    stop: int


class TensorFile:
    """Tensors of one file by name. Opening checks the header; reading copies one tensor's bytes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                size = path.stat().st_size
                self.spans = read_header(file, size, path.name)
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # writable, so torch takes it
        except OSError as error:
            raise WeightsInvalid(
                f"{path.name} cannot be read ({error.strerror}); check that it exists and its permissions."
            ) from error

    def read(self, name: str) -> Tensor:
        span = self.spans[name]
        dtype = check_dtype(name, span.dtype)
        if span.start == span.stop:
            return torch.empty(span.shape, dtype=dtype)
        mapped = torch.frombuffer(self._map, dtype=torch.uint8, count=span.stop - span.start, offset=span.start)
        # A copy, so that a file that is changed or cut later cannot change or kill a running model.
        return mapped.clone().view(dtype).view(span.shape)

    def read_range(self, start: int, stop: int) -> bytes:
        return self._map[start:stop]


def check_dtype(tensor: str, dtype: str) -> torch.dtype:
    """Raise `WeightsInvalid` for a dtype (as the file names it) that is not loaded."""
    if dtype not in DTYPES:
        raise WeightsInvalid(
            f"Tensor {tensor} has dtype {dtype}, which Muster does not load; choose an unquantised checkpoint."
        )
    return DTYPES[dtype]


def read_header(file: BinaryIO, size: int, name: str) -> dict[str, Span]:
    """Where each tensor lies in a file of `size` bytes called `name`, whose beginning `file` reads.

    Raises `WeightsInvalid` when it is no header, or contradicts itself or the size.
    """
    prefix = file.read(8)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or length > min(size - 8, MAX_HEADER_BYTES):
        raise _broken(name, "its header is cut off")
    try:
        header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        spans = {tensor: _span(entry, 8 + length) for tensor, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise _broken(name, "its header is not that of a safetensors file") from error
    for tensor, span in spans.items():
        if span.stop > size:
            raise _broken(name, f"it ends before tensor {tensor} does (truncated at {size} bytes)")
    return spans


def _span(entry: dict[str, Any], base: int) -> Span:
    shape = tuple(int(size) for size in entry["shape"])
    start, stop = (int(offset) for offset in entry["data_offsets"])
    dtype = DTYPES.get(entry["dtype"])
    if len(shape) > MOST_DIMENSIONS or not all(0 <= size <= MOST_BYTES for size in (*shape, start, stop)):
        raise ValueError("negative or endless size")
    if start > stop:
        raise ValueError("negative size")
    if dtype is not None and stop - start != math.prod(shape) * dtype.itemsize:
        raise ValueError("size does not match shape")
    return Span(entry["dtype"], shape, base + start, base + stop)


def _broken(name: str, reason: str) -> WeightsInvalid:
    return WeightsInvalid(f"{name} is damaged: {reason}; download the model again.")
