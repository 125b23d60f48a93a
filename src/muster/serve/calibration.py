"""How much the codecs of a ring's links change what a model says: the same text through it, raw and packed.

    piece k of the text, raw      its logits are kept
    piece k of the text, packed   its logits are held against them, and both are forgotten

A piece is so short that the logits of two have room in the workspace that serving has set aside. Each of the two has
pages of its own, which nobody else uses yet. Knows nothing of codecs, links or when this happens.

Legend of shape suffixes: C tokens of a piece, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from muster.cost.memory import SCORED_AT_ONCE
from muster.errors import ProtocolViolation
from muster.spec.scores import LEAST_LOGPROB
from muster.wire.messages.generate import Row

_AT_ONCE = 8
"""Positions that are compared at a time: what is made on the way is as large as their logits."""


@dataclass(frozen=True, slots=True)
class Piece:
    tokens: tuple[int, ...]
    row: Row
    raw: bool


def pieces(
    tokens: Sequence[int], num_pages: int, page_size: int, max_context: int, prefill_tokens: int
) -> Iterator[Piece]:
    """Each twice, raw first. A text longer than half the pages, or than the model's context, is cut into several."""
    half = num_pages // 2
    length, at_once = min(half * page_size, max_context), min(SCORED_AT_ONCE, prefill_tokens)
    for begin in range(0, len(tokens), max(1, length)):
        text = tokens[begin : begin + length]
        for start in range(0, len(text), at_once):
            piece = tuple(text[start : start + at_once])
            used = -(-(start + len(piece)) // page_size)
            for raw, first in ((True, 0), (False, half)):
                pages = tuple(range(first, first + used))
                row = Row(slot=0, start=start, length=len(piece), pages=pages, samples=0, scores=len(piece))
                yield Piece(piece, row, raw)


class Comparison:
    """On the last stage. `keep` the logits of a raw piece, then `compare` those of the packed one with them."""

    def __init__(self) -> None:
        self._kept: list[Tensor] = []
        self._span = (0, 0)
        self._seen = 0
        self.agreed = 0
        self.divergence = 0.0

    def begin(self, row: Row, raw: bool) -> None:
        """Raises `ProtocolViolation` for a packed piece without its raw one."""
        span = (row.start, row.length)
        if raw:
            self._kept, self._span = [], span
        elif span != self._span or sum(map(len, self._kept)) != row.length:
            raise ProtocolViolation("A packed piece of the calibration text came without its raw one; update Muster.")
        self._seen, self.agreed, self.divergence = 0, 0, 0.0

    def keep(self, logits_CV: Tensor) -> None:
        self._kept.append(logits_CV.clone())

    def compare(self, logits_CV: Tensor) -> None:
        (reference_CV,) = self._kept if len(self._kept) == 1 else [torch.cat(self._kept)]
        reference_CV = reference_CV[self._seen : self._seen + len(logits_CV)]
        self._seen += len(logits_CV)
        for raw_CV, packed_CV in zip(
            *(torch.split(one_CV, _AT_ONCE) for one_CV in (reference_CV, logits_CV)), strict=True
        ):
            # Of tokens that are equally likely with raw values either is right; bfloat16 knows many such.
            chosen_C1 = packed_CV.argmax(dim=1, keepdim=True)
            self.agreed += int((raw_CV.gather(1, chosen_C1)[:, 0] == raw_CV.amax(dim=1)).sum())
            raw_CV, packed_CV = _log_probabilities(raw_CV), _log_probabilities(packed_CV)
            self.divergence += max(0.0, float((raw_CV.exp() * (raw_CV - packed_CV)).sum(dtype=torch.float64)))

    def end(self) -> None:
        """Of a packed piece: its raw one is needed no more."""
        self._kept, self._span = [], (0, 0)


def _log_probabilities(logits_CV: Tensor) -> Tensor:
    # What a model rules out is still a number.
    return logits_CV.log_softmax(dim=1).nan_to_num_(nan=LEAST_LOGPROB, neginf=LEAST_LOGPROB)
