"""Tensors as messages and back: letters from place to place, in pieces that a channel takes. Knows no channel.

What comes is a claim: who reads says which names may come, of which shapes, before a byte is kept.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from msgspec.structs import replace
from torch import Tensor

from muster.compress.registry import PLAIN
from muster.errors import ProtocolViolation
from muster.train.instructions import Tensors
from muster.train.links import Parcels
from muster.wire.frame import Payload
from muster.wire.messages.base import TensorHeader
from muster.wire.messages.train import HEAD, TensorKind, TensorPiece

PIECE_BYTES = 8 * 2**20
SLACK_BYTES = 4096
"""A codec's scales and counts may make a small tensor larger."""
WIDEST_BYTES = 8
"""Of one number as it travels."""


class LetterOrigin(NamedTuple):
    """What a letter is, and where it is from."""

    sequence: int
    pipeline: int
    stage: int
    kind: TensorKind
    microbatch: int = 0

    @property
    def is_from_head(self) -> bool:
        return self.pipeline == HEAD


def origin_of(piece: TensorPiece) -> LetterOrigin:
    return LetterOrigin(piece.sequence, piece.pipeline, piece.stage, piece.kind, piece.microbatch)


def as_they_are(tensors: Tensors) -> Parcels:
    """Packed without a codec."""
    return {name: PLAIN.encode(tensor) for name, tensor in tensors.items()}


def to_pieces(parcels: Parcels, origin: LetterOrigin, epoch: int, round: int) -> Iterator[tuple[TensorPiece, bytes]]:
    """The messages of one letter. Each payload is a copy, so that the tensors may change at once."""
    blank = TensorPiece(epoch=epoch, round=round, **origin._asdict())
    if not parcels:
        yield blank, b""
    for index, (name, (header, packed)) in enumerate(parcels.items()):
        view = memoryview(packed).cast("B")
        left = len(parcels) - 1 - index
        for offset in range(0, max(1, view.nbytes), PIECE_BYTES):
            piece = replace(blank, name=name, header=header, offset=offset, nbytes=view.nbytes, left=left)
            yield piece, bytes(view[offset : offset + PIECE_BYTES])


def packed_texts(texts: Sequence[Tensor], length: int) -> tuple[TensorHeader, bytes]:
    """Microbatches [B, length + 1] of token ids below each other."""
    nothing = torch.empty(0, length + 1, dtype=torch.int64)
    header, packed = PLAIN.encode(torch.cat([nothing, *texts]).to(torch.int32))
    return header, bytes(packed)


@dataclass(slots=True)
class Letter:
    """What has come of one."""

    tensors: dict[str, tuple[TensorHeader, bytearray]] = field(default_factory=dict)
    is_whole: bool = False
    _left: int | None = None
    """Tensors that follow the one at hand."""
    _missing: int = 0
    """Bytes of the one at hand."""

    def add(self, piece: TensorPiece, payload: Payload, numel: Callable[[str], int | None]) -> None:
        """`numel` says how many numbers a tensor of this name has at most; None: there is none of this name.

        Raises `ProtocolViolation` on what is out of turn, unknown or too large.
        """
        if self.is_whole or piece.left < 0:
            raise _out_of_turn(piece)
        if piece.header is None:
            if self.tensors or payload or piece.left:
                raise _out_of_turn(piece)
            self.is_whole = True
            return
        if piece.offset == 0:
            self._begin(piece, piece.header, numel(piece.name))
        body = self._body(piece)
        if piece.offset != len(body) or len(payload) > self._missing:
            raise _out_of_turn(piece)
        body += payload
        self._missing -= len(payload)
        self.is_whole = not self._missing and not piece.left

    def _begin(self, piece: TensorPiece, header: TensorHeader, numel: int | None) -> None:
        follows = self._left is None or (not self._missing and piece.left == self._left - 1)
        if piece.name in self.tensors or not follows:
            raise _out_of_turn(piece)
        if numel is None or not 0 <= piece.nbytes <= WIDEST_BYTES * numel + SLACK_BYTES:
            raise ProtocolViolation(
                f"A tensor {piece.name[:80]!r} of {piece.nbytes} bytes came among {piece.kind}, where none so large is "
                "due; update both machines."
            )
        self.tensors[piece.name] = header, bytearray()
        self._left, self._missing = piece.left, piece.nbytes

    def _body(self, piece: TensorPiece) -> bytearray:
        if piece.left != self._left or piece.name not in self.tensors:
            raise _out_of_turn(piece)
        header, body = self.tensors[piece.name]
        if header != piece.header:
            raise _out_of_turn(piece)
        return body

    def open(self, shapes: Mapping[str, torch.Size] | None = None) -> dict[str, Tensor]:
        """Tensors that travelled as they are, on the CPU; each must have the shape that is there under its name.

        Without `shapes` whoever uses them checks that. Raises `ProtocolViolation` for what cannot be one.
        """
        found: dict[str, Tensor] = {}
        for name, (header, body) in self.tensors.items():
            shape = torch.Size(header.shape) if shapes is None else shapes.get(name)
            if shape is None or header.shape != tuple(shape):
                raise ProtocolViolation(
                    f"A tensor {name[:80]!r} of shape {list(header.shape[:8])} came, which is not due; update both "
                    "machines."
                )
            found[name] = PLAIN.decode(header, body, WIDEST_BYTES * max(1, shape.numel()))
        return found


def _out_of_turn(piece: TensorPiece) -> ProtocolViolation:
    return ProtocolViolation(f"A part of {piece.kind} came out of turn; the peer runs changed code.")
