"""Codecs that send some of the values and leave the rest at zero.

    top-k       [values, bfloat16] [a bit for each value of the tensor, or the places of those kept, int32]
    random-k    [number of the message, int64] [values, bfloat16]

`top-k-1/r` keeps of n values the ceil(n / r) with the largest |value|. Which ones is said in the shorter of two ways:
beyond one in 32 the map of bits. `random-k-1/r` keeps as many, drawn by the number of the message, so that the other
side knows which. Kept values are sent as they are, not multiplied by r: with error feedback that is what converges.
"""

from typing import Literal

import torch
from torch import Tensor

from muster.compress.matrix import bytes_of, check_length, checked, header_of, not_a_number, payload_of, within
from muster.compress.noise import mixed
from muster.compress.packing import pack, packed_bytes, unpack
from muster.errors import MalformedFrame
from muster.wire.messages.base import TensorHeader

Choice = Literal["top", "random"]
_VALUE_BYTES, _PLACE_BYTES, _COUNTER_BYTES = 2, 4, 8


def kept_of(count: int, ratio: float) -> int:
    """How many of `count` values are kept."""
    return min(count, max(1, -int(-count // ratio))) if count else 0


class SparseCodec:
    """Implements `Encode` and `Decode`."""

    def __init__(self, name: str, choice: Choice, ratio: float, seed: int = 0) -> None:
        """One value in `ratio` is kept; 1 or more."""
        self.name, self._choice, self._ratio, self._seed = name, choice, ratio, seed
        self._messages = 0

    def encode(self, tensor: Tensor) -> tuple[TensorHeader, memoryview]:
        header = header_of(tensor, self.name)
        values_N = tensor.detach().reshape(-1)
        count = len(values_N)
        kept = kept_of(count, self._ratio)
        if not kept:
            return header, memoryview(b"")
        if not bool(values_N.abs().amax().isfinite()):
            raise not_a_number()
        if self._choice == "random":
            places_K = self._drawn(count, kept, self._messages).to(values_N.device)
            where = torch.tensor([self._messages], dtype=torch.int64, device=values_N.device).view(torch.uint8)
            self._messages += 1
        else:
            places_K = values_N.abs().topk(kept, sorted=False).indices.sort().values
            where = _written(places_K, count)
        values_K = within(values_N[places_K].float(), torch.bfloat16).view(torch.uint8)
        parts = (where, values_K) if self._choice == "random" else (values_K, where)
        return header, payload_of(torch.cat(parts))

    def decode(self, header: TensorHeader, payload: bytes | bytearray | memoryview, max_bytes: int) -> Tensor:
        dtype, rows, width = checked(header, max_bytes)
        count = rows * width
        kept = kept_of(count, self._ratio)
        where_bytes = _COUNTER_BYTES * (kept > 0) if self._choice == "random" else _where_bytes(count, kept)
        check_length(header, len(payload), _VALUE_BYTES * kept + where_bytes)
        tensor_N = torch.zeros(count, dtype=dtype)
        if kept:
            packed = bytes_of(payload)
            start = where_bytes if self._choice == "random" else 0
            values_K = packed[start : start + _VALUE_BYTES * kept].clone().view(torch.bfloat16).float()
            if not bool(values_K.isfinite().all()):
                raise MalformedFrame("A tensor came with what is no number; the sender is broken, or cheats.")
            if self._choice == "random":
                number = int(packed[:_COUNTER_BYTES].clone().view(torch.int64))
                places_K = self._drawn(count, kept, number)
            else:
                places_K = _read(packed[_VALUE_BYTES * kept :], count, kept)
            tensor_N[places_K] = within(values_K, dtype)
        return tensor_N.view(header.shape)

    def _drawn(self, count: int, kept: int, number: int) -> Tensor:
        """Places of the message `number`, in order: those of the least of `count` random numbers."""
        keys_N = (mixed(count, self._seed, number, torch.device("cpu")).long() << 32) | torch.arange(count)
        return (keys_N.topk(kept, largest=False, sorted=False).values & (2**32 - 1)).sort().values


def _where_bytes(count: int, kept: int) -> int:
    return min(packed_bytes(count, 1), _PLACE_BYTES * kept)


def _written(places_K: Tensor, count: int) -> Tensor:
    """The shorter of a map of bits and a list."""
    if _PLACE_BYTES * len(places_K) < packed_bytes(count, 1):
        return places_K.to(torch.int32).view(torch.uint8)
    flags_1N = torch.zeros(1, count, dtype=torch.uint8, device=places_K.device)
    flags_1N[0, places_K] = 1
    return pack(flags_1N, 1)[0]


def _read(where: Tensor, count: int, kept: int) -> Tensor:
    if _PLACE_BYTES * kept < packed_bytes(count, 1):
        places_K = where.clone().view(torch.int32).long()
        in_order = bool((places_K[1:] > places_K[:-1]).all())
        if not in_order or int(places_K[0]) < 0 or int(places_K[-1]) >= count:
            raise MalformedFrame("A tensor came with places that it does not have; the sender is broken, or cheats.")
        return places_K
    places_K = unpack(where[None], 1, count)[0].nonzero()[:, 0]
    if len(places_K) != kept:
        raise MalformedFrame(f"A tensor came with {len(places_K)} places for {kept} values; the sender is broken.")
    return places_K
