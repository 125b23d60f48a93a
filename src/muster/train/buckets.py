"""Many tensors as one of rows, and back: what is exchanged between replicas is packed all at once.

Knows nothing of what the numbers are.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from muster.compress.feedback import ErrorFeedback
from muster.compress.registry import Coder
from muster.errors import MalformedFrame
from muster.wire.messages.base import TensorHeader

ROW = 4096
"""Of values; as long as a chunk of `chunk-top-k`."""
PACKED, WHOLE = "packed", "whole"
"""What a message holds: a payload of its codec, or, of what is no number, the values as they are."""


def flattened(tensors: Sequence[Tensor], parts: int = 1) -> Tensor:
    """float32 [parts, rows, ROW] on the CPU, zeros behind the end."""
    flat = torch.cat([tensor.detach().reshape(-1).float().cpu() for tensor in tensors])
    short = -len(flat) % (parts * ROW)
    return torch.cat((flat, flat.new_zeros(short))).view(parts, -1, ROW)


def spread(flat: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undoes `flattened`: tensors of the shapes, types and devices of `like`."""
    sizes = [tensor.numel() for tensor in like.values()]
    pieces = torch.split(flat.reshape(-1)[: sum(sizes)], sizes)
    return {
        name: piece.view(tensor.shape).to(tensor.device, tensor.dtype)
        for (name, tensor), piece in zip(like.items(), pieces, strict=True)
    }


def packed(values: Tensor, send: ErrorFeedback) -> tuple[dict[str, Tensor], Tensor]:
    """What goes out, and what all who get it make of it. What is no number goes as it is, for all to see."""
    if not bool(torch.isfinite(values).all()):
        return {WHOLE: values}, values
    _, payload = send(values)
    assert send.decoded is not None
    return {PACKED: torch.frombuffer(bytearray(payload), dtype=torch.uint8)}, send.decoded


def unpacked(came: Mapping[str, Tensor], shape: Sequence[int], codec: str, coder: Coder) -> Tensor:
    """float32 of `shape`. Raises `MalformedFrame` for what cannot be that."""
    if WHOLE in came:
        whole = came[WHOLE]
        if tuple(whole.shape) != tuple(shape) or whole.dtype != torch.float32:
            raise MalformedFrame(f"A replica sent {list(whole.shape)} where {list(shape)} is due.")
        return whole
    if PACKED not in came or came[PACKED].dtype != torch.uint8 or came[PACKED].dim() != 1:
        raise MalformedFrame("A replica sent something else than a packed tensor; update Muster on both machines.")
    header = TensorHeader(dtype="float32", shape=tuple(shape), codec=codec)
    payload = memoryview(came[PACKED].contiguous().numpy())  # type: ignore[arg-type]
    return coder.decode(header, payload, 4 * shape[0] * shape[1])
