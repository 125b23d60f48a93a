"""The codec `chunk-top-k-1/r`: of each 4,096 values the largest few, in 2 bits each. About 0.22 bits a value at 1/64.

    [small sizes, bfloat16] [large sizes, bfloat16] [places in their chunk, 12 bits] [numbers, 2 bits]

What SparseLoCo sends of pseudo-gradients (arXiv 2603.08163: chunks of 64 x 64, 1.56 % of the values). A kept value is
plus or minus one of two sizes of its chunk: the mean of those above the mean |value| of the kept ones, and the mean of
the others. Without error feedback it loses almost everything; it is made to be used with it.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from muster.compress.matrix import bytes_of, check_length, checked, header_of, not_a_number, payload_of, within
from muster.compress.packing import pack, packed_bytes, unpack
from muster.errors import MalformedFrame
from muster.wire.messages.base import TensorHeader

CHUNK = 4096
_PLACE_BITS, _NUMBER_BITS = 12, 2
_NEGATIVE, _LARGE = 1, 2


class ChunkCodec:
    """Implements `Encode` and `Decode`."""

    def __init__(self, name: str, ratio: float) -> None:
        """One value in `ratio` is kept of each chunk; the last one, if it is shorter, is filled with zeros."""
        self.name, self._kept = name, max(1, int(CHUNK // ratio))

    def encode(self, tensor: Tensor) -> tuple[TensorHeader, memoryview]:
        header = header_of(tensor, self.name)
        values_N = tensor.detach().reshape(-1).float()
        if not len(values_N):
            return header, memoryview(b"")
        chunks_CN = pad(values_N, (0, -len(values_N) % CHUNK)).view(-1, CHUNK)
        places_CK = chunks_CN.abs().topk(self._kept, dim=1, sorted=False).indices.sort(dim=1).values
        kept_CK = chunks_CN.gather(1, places_CK)
        sizes_CK = kept_CK.abs()
        # The largest |value| of a chunk is among the kept ones; of NaN, too.
        if not bool(sizes_CK.isfinite().all()):
            raise not_a_number()
        large_CK = sizes_CK > sizes_CK.mean(dim=1, keepdim=True)
        marks_2C = torch.stack((_mean(sizes_CK, ~large_CK), _mean(sizes_CK, large_CK)))
        numbers_CK = (kept_CK < 0).to(torch.uint8) * _NEGATIVE + large_CK.to(torch.uint8) * _LARGE
        parts = (
            within(marks_2C, torch.bfloat16).flatten().view(torch.uint8),
            (places_CK & 0xFF).to(torch.uint8).flatten(),
            pack((places_CK >> 8).to(torch.uint8), _PLACE_BITS - 8).flatten(),
            pack(numbers_CK, _NUMBER_BITS).flatten(),
        )
        return header, payload_of(torch.cat(parts))

    def decode(self, header: TensorHeader, payload: bytes | bytearray | memoryview, max_bytes: int) -> Tensor:
        dtype, rows, width = checked(header, max_bytes)
        count = rows * width
        chunks = -(-count // CHUNK)
        sizes = [
            chunks * part
            for part in (
                4,
                self._kept,
                packed_bytes(self._kept, _PLACE_BITS - 8),
                packed_bytes(self._kept, _NUMBER_BITS),
            )
        ]
        check_length(header, len(payload), sum(sizes))
        if not chunks:
            return torch.empty(header.shape, dtype=dtype)
        marks, low, high, packed = torch.split(bytes_of(payload), sizes)
        marks_2C = marks.clone().view(torch.bfloat16).float().view(2, chunks)
        if not bool((marks_2C.isfinite() & (marks_2C >= 0)).all()):
            raise MalformedFrame("A tensor came with a size that is no number; the sender is broken.")
        upper_CK = unpack(high.view(chunks, -1), _PLACE_BITS - 8, self._kept).long()
        places_CK = (upper_CK << 8) | low.view(chunks, -1).long()
        # 12 bits reach no further than a chunk, and what lies behind the end of a short last one is cut off.
        if not bool((places_CK[:, 1:] > places_CK[:, :-1]).all()):
            raise MalformedFrame("A tensor came with places out of order; the sender is broken, or cheats.")
        numbers_CK = unpack(packed.view(chunks, -1), _NUMBER_BITS, self._kept)
        sizes_CK = torch.where((numbers_CK & _LARGE) > 0, marks_2C[1][:, None], marks_2C[0][:, None])
        values_CK = torch.where((numbers_CK & _NEGATIVE) > 0, -sizes_CK, sizes_CK)
        chunks_CN = torch.zeros(chunks, CHUNK).scatter_(1, places_CK, values_CK)
        return within(chunks_CN.flatten()[:count], dtype).reshape(header.shape)


def _mean(sizes_CK: Tensor, chosen_CK: Tensor) -> Tensor:
    """[C], 0 where none is chosen."""
    return (sizes_CK * chosen_CK).sum(dim=1) / chosen_CK.sum(dim=1).clamp(min=1)
