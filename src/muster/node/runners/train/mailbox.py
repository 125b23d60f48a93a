"""What other places have sent to this one and nobody has read yet. Knows no links and no work.

A letter is kept only if the round has such a place, that place may send it, and it is not larger than is due.
"""

import asyncio
from collections.abc import Callable

from muster.errors import ProtocolViolation
from muster.node.runners.base import refuse
from muster.node.runners.train.round import Round
from muster.spec.pool import NodeId
from muster.train.instructions import Place
from muster.train.pieces import Letter, LetterOrigin, origin_of
from muster.wire.frame import Payload
from muster.wire.messages.train import TensorPiece

MAX_LETTERS = 16_384
"""That wait."""
Numel = Callable[[LetterOrigin, str], int | None]
"""How many numbers a tensor of this name in such a letter has at most; None: there is none."""

Sum = tuple[int, int]
"""The order in which something is added up, and which of its sums."""


class Mailbox:
    def __init__(self, head: NodeId, numel: Numel) -> None:
        self._head, self._numel = head, numel
        self._letters: dict[LetterOrigin, Letter] = {}
        self._figures: dict[Sum, tuple[tuple[float, ...], ...]] = {}
        self._changed = asyncio.Event()

    def empty(self) -> None:
        """Another round begins."""
        self._letters.clear()
        self._figures.clear()

    def tidy(self, sequence: int) -> None:
        """Drop what belongs to orders that are over."""
        self._letters = {origin: letter for origin, letter in self._letters.items() if origin.sequence >= sequence}
        self._figures = {sum: figures for sum, figures in self._figures.items() if sum[0] >= sequence}

    def add(self, peer: NodeId, piece: TensorPiece, payload: Payload, round: Round, sequence: int) -> None:
        """`sequence` is that of the last order. Raises `ProtocolViolation` where this peer may not send this."""
        origin = origin_of(piece)
        if peer != (self._head if origin.is_from_head else _sender(origin, round)):
            raise refuse(peer, piece)
        if not 0 <= origin.sequence <= sequence + 1:
            raise ProtocolViolation(f"A part of {piece.kind} came long before its time; the peer runs changed code.")
        letter = self._letters.get(origin)
        if letter is None:
            if len(self._letters) >= MAX_LETTERS:
                raise ProtocolViolation(f"More than {MAX_LETTERS} letters wait here; the peer runs changed code.")
            letter = self._letters[origin] = Letter()
        letter.add(piece, payload, lambda name: self._numel(origin, name))
        if letter.is_whole:
            self._changed.set()

    def add_figures(self, sum: Sum, figures: tuple[tuple[float, ...], ...]) -> None:
        self._figures[sum] = figures
        self._changed.set()

    async def letter(self, origin: LetterOrigin) -> Letter:
        """Once it is whole; it is taken out."""
        while (found := self._letters.get(origin)) is None or not found.is_whole:
            await self._wait()
        return self._letters.pop(origin)

    async def figures(self, sum: Sum) -> tuple[tuple[float, ...], ...]:
        while (found := self._figures.get(sum)) is None:
            await self._wait()
        return found

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()


def _sender(origin: LetterOrigin, round: Round) -> NodeId | None:
    place = Place(origin.pipeline, origin.stage)
    return round.node(place) if place in round.places else None
