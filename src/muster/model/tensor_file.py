"""One safetensors file: where each tensor lies, checked before anything is read. Knows nothing of models.

Format: 8 bytes (little endian) length of the header, the header (JSON: name -> dtype, shape, data_offsets), the data.
We read it ourselves, and not through the library, because other machines ask for byte ranges.
"""

import math
import os
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import msgspec

from muster.errors import WeightsInvalid
from muster.model.folder import open_inside

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MAX_HEADER_BYTES = 32 * 2**20
MAX_TENSORS = 2**18
"""In one file, or in an index; the largest published models have about 140,000 in all. A header takes some twenty times
its own size while it is read, so both are looked at before."""
MAX_DIMENSIONS, MAX_BYTES = 16, 2**60
"""To multiply a million digits would take for ever."""
PIECE_BYTES = 2**22
"""Of a tensor that is looked at without being kept, at once."""


@dataclass(frozen=True, slots=True)
class Dtype:
    itemsize: int
    torch_name: str
    """By name: a head describes tensors and hands out their bytes without loading torch."""


DTYPES = {
    "F64": Dtype(8, "float64"),
    "F32": Dtype(4, "float32"),
    "F16": Dtype(2, "float16"),
    "BF16": Dtype(2, "bfloat16"),
    "I64": Dtype(8, "int64"),
    "I32": Dtype(4, "int32"),
    "I16": Dtype(2, "int16"),
    "I8": Dtype(1, "int8"),
    "U8": Dtype(1, "uint8"),
    "F8_E4M3": Dtype(1, "float8_e4m3fn"),
    "F8_E5M2": Dtype(1, "float8_e5m2"),
    "F8_E8M0": Dtype(1, "float8_e8m0fnu"),
    "BOOL": Dtype(1, "bool"),
}


@dataclass(frozen=True, slots=True)
class Span:
    """A tensor's bytes: [start, stop) of the file."""

    dtype: str
    """As the file names it (`BF16`)."""
    shape: tuple[int, ...]
    start: int
    stop: int


_Size = Annotated[int, msgspec.Meta(ge=0, le=MAX_BYTES)]


class _Entry(msgspec.Struct):
    """A tensor as the header describes it."""

    dtype: str
    shape: Annotated[tuple[_Size, ...], msgspec.Meta(max_length=MAX_DIMENSIONS)]
    data_offsets: tuple[_Size, _Size]


Ranges = tuple[tuple[int, int], ...]
"""[start, stop) each."""


class TensorFile:
    """Tensors of one file by name. Opening checks the header; reading copies one tensor's bytes.

    Read, not mapped: what is mapped counts as this process's memory once it was looked at, and a file that is cut
    while it is read would end the process.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with open_inside(path.parent, path.name) as file:
                self.spans = read_header(file, os.fstat(file.fileno()).st_size, path.name)
                self._descriptor = os.dup(file.fileno())
        except OSError as error:
            raise WeightsInvalid(
                f"{path.name} cannot be read ({error.strerror}); check that it exists and its permissions."
            ) from error
        weakref.finalize(self, os.close, self._descriptor)

    def read(self, name: str) -> "Tensor":
        import torch

        span = self.spans[name]
        dtype = check_dtype(name, span.dtype)
        tensor = torch.empty(span.stop - span.start, dtype=torch.uint8)
        self._read_into(tensor.numpy().data, span.start)
        return tensor.view(dtype).view(span.shape)

    def read_part(self, name: str, dim: int, ranges: Ranges) -> "Tensor":
        """These ranges of one dimension, one after another, and no more. Raises `WeightsInvalid` beyond its end."""
        import torch

        span = self.spans[name]
        dtype = check_dtype(name, span.dtype)
        shape = part_shape(name, span.shape, dim, ranges)
        tensor = torch.empty(math.prod(shape) * dtype.itemsize, dtype=torch.uint8)
        read_strided(tensor.numpy().data, span, dtype.itemsize, dim, ranges, self._read_into)
        return tensor.view(dtype).view(shape)

    def read_range(self, start: int, stop: int) -> bytes:
        data = bytearray(stop - start)
        self._read_into(memoryview(data), start)
        return bytes(data)

    def pieces(self, name: str) -> Iterator[bytes]:
        """A tensor's bytes, a few at once."""
        span = self.spans[name]
        for start in range(span.start, span.stop, PIECE_BYTES):
            yield self.read_range(start, min(start + PIECE_BYTES, span.stop))

    def _read_into(self, target: memoryview, start: int) -> None:
        try:
            read_fully(self._descriptor, target, start)
        except EOFError:
            raise _broken(self.path.name, "it has become shorter since it was opened") from None
        except OSError as error:
            raise _broken(self.path.name, f"it cannot be read ({error.strerror})") from error


def read_fully(descriptor: int, target: memoryview, start: int) -> None:
    """Fill `target` from a place in a file. Raises `EOFError` where it ends before, or `OSError`."""
    while target:
        count = os.preadv(descriptor, [target], start)
        if not count:
            raise EOFError
        target, start = target[count:], start + count


def part_shape(name: str, shape: tuple[int, ...], dim: int, ranges: Ranges) -> tuple[int, ...]:
    """Of what is taken. Raises `WeightsInvalid` where the tensor is smaller."""
    if dim >= len(shape) or max(stop for _, stop in ranges) > shape[dim]:
        raise WeightsInvalid(
            f"Tensor {name} has shape {shape}, smaller than config.json says; download the model again, or check that "
            "weights and config.json belong together."
        )
    return (*shape[:dim], sum(stop - start for start, stop in ranges), *shape[dim + 1 :])


def read_strided(
    target: memoryview,
    span: Span,
    itemsize: int,
    dim: int,
    ranges: Ranges,
    read_into: Callable[[memoryview, int], None],
) -> None:
    """Fill `target` with what `part_shape` describes; `read_into` fills a piece from a place in the file."""
    inner = math.prod(span.shape[dim + 1 :]) * itemsize
    row, at = span.shape[dim] * inner, 0
    for outer in range(math.prod(span.shape[:dim])):
        for start, stop in ranges:
            size = (stop - start) * inner
            read_into(target[at : at + size], span.start + outer * row + start * inner)
            at += size


def take(tensor: "Tensor", dim: int, ranges: Ranges) -> "Tensor":
    """The same of a tensor that is in memory, as a copy: the whole goes."""
    import torch

    return torch.cat([tensor.narrow(dim, start, stop - start) for start, stop in ranges], dim).clone()


def same_tensor(one: tuple[TensorFile, str], other: tuple[TensorFile, str]) -> bool:
    """Whether two tensors, each of a file under a name, are equal in dtype, shape and every bit."""
    left, right = (file.spans[name] for file, name in (one, other))
    if (left.dtype, left.shape) != (right.dtype, right.shape):
        return False
    return all(a == b for a, b in zip(one[0].pieces(one[1]), other[0].pieces(other[1]), strict=True))


def check_dtype(tensor: str, dtype: str) -> "torch.dtype":
    """Raise `WeightsInvalid` for a dtype (as the file names it) that is not loaded."""
    import torch

    if dtype not in DTYPES:
        raise _not_loaded(tensor, dtype)
    found: torch.dtype = getattr(torch, DTYPES[dtype].torch_name)
    return found


def dtype_name(dtype: "torch.dtype") -> str:
    """As a file's header has it; torch's own name where it has none."""
    name = str(dtype).removeprefix("torch.")
    return next((key for key, known in DTYPES.items() if known.torch_name == name), name)


def check_plain_dtype(tensor: str, dtype: str) -> None:
    """Raise `WeightsInvalid` likewise, and for a dtype that holds codes alone."""
    if dtype not in DTYPES or dtype.startswith("F8"):
        raise _not_loaded(tensor, dtype)


def _not_loaded(tensor: str, dtype: str) -> WeightsInvalid:
    return WeightsInvalid(
        f"Tensor {tensor} has dtype {dtype}, which Muster does not load; choose an unquantised checkpoint."
    )


def read_header(file: BinaryIO, size: int, name: str) -> dict[str, Span]:
    """Where each tensor lies in a file of `size` bytes called `name`, whose beginning `file` reads.

    Raises `WeightsInvalid` when it is no header, or contradicts itself or the size.
    """
    prefix = file.read(8)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or length > size - 8:
        raise _broken(name, "its header is cut off")
    if length > MAX_HEADER_BYTES:
        raise _broken(name, f"its header has {length} bytes, more than the {MAX_HEADER_BYTES} that are read")
    try:
        spans = _spans(file.read(length), 8 + length)
    except (ValueError, RecursionError) as error:
        raise _broken(name, "its header is not that of a safetensors file") from error
    for tensor, span in spans.items():
        if span.stop > size:
            raise _broken(name, f"it ends before tensor {tensor} does (truncated at {size} bytes)")
    return spans


def _spans(header: bytes, base: int) -> dict[str, Span]:
    """Raises `ValueError` (of which a `msgspec` error is one) on what is no header or contradicts itself."""
    if header.count(b"{") > MAX_TENSORS + 2:
        raise ValueError("too many tensors")
    entries = msgspec.json.decode(header, type=dict[str, msgspec.Raw])  # only what is used of it becomes objects
    entries.pop("__metadata__", None)
    decoder = msgspec.json.Decoder(_Entry)
    spans = {tensor: _span(decoder.decode(entry), base) for tensor, entry in entries.items()}
    ordered = sorted((span.start, span.stop) for span in spans.values() if span.start < span.stop)
    if any(start < stop for (_, stop), (start, _) in pairwise(ordered)):
        raise ValueError("tensors overlap")  # a small file could hold any number of large ones
    return spans


def _span(entry: _Entry, base: int) -> Span:
    start, stop = entry.data_offsets
    dtype = DTYPES.get(entry.dtype)
    if start > stop:
        raise ValueError("negative size")
    if dtype is not None and stop - start != math.prod(entry.shape) * dtype.itemsize:
        raise ValueError("size does not match shape")
    return Span(entry.dtype, entry.shape, base + start, base + stop)


def _broken(name: str, reason: str) -> WeightsInvalid:
    return WeightsInvalid(f"{name} is damaged: {reason}; download the model again.")
