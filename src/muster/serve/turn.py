"""What one turn of the scheduler comes to: rows of sequences. Decides nothing."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from muster.serve.sequence import Sequence
from muster.wire.messages.generate import Row

MAX_GUESSES = 31
"""Of one row."""
MAX_STEP_SCORES = 2**14
"""Prompt tokens that are scored in one step: with all alternatives, their scores are a third of what a frame holds."""


@dataclass(frozen=True, slots=True)
class StepRow:
    """One sequence's row: tokens [start, start + length), of which the last are guesses."""

    sequence: Sequence
    start: int
    length: int
    samples: int
    """So many of the tokens, up to the last, choose a token each."""
    scores: int = 0
    """So many of the tokens, from the first on, score the token behind them."""
    guesses: tuple[int, ...] = ()

    @property
    def end(self) -> int:
        """Behind the last token that is known."""
        return self.start + self.length - len(self.guesses)

    @property
    def decodes(self) -> bool:
        """Whether it is about the last known token alone."""
        return self.samples > 0 and self.end - self.start == 1

    def row(self, page_size: int) -> Row:
        """As other stages get it."""
        pages = tuple(self.sequence.pages[: -(-(self.start + self.length) // page_size)])
        return Row(self.sequence.slot, self.start, self.length, pages, self.samples, self.scores)


@dataclass(slots=True)
class Turn:
    """What one step will do."""

    number: int
    """Of the step."""
    after: int = -1
    """The last step under way that must have run before."""
    shares: list[StepRow] = field(default_factory=list)
    copies: list[tuple[int, int]] = field(default_factory=list)
    admitted: list[Sequence] = field(default_factory=list)
    released: list[int] = field(default_factory=list)
    prompt_tokens: int = 0
    scores: int = 0
    pages: set[int] = field(default_factory=set)
    """That its rows and copies name; counted only where a step may not name all."""
    guesses: int = 0
    promised: set[bytes] = field(default_factory=set)
    """Digests of the pages that this turn fills; they can be found from the next turn on."""

    def tokens(self) -> Tensor:
        """Of all rows, one after another: int64 [T]."""
        tokens = [(*share.sequence.tokens[share.start : share.end], *share.guesses) for share in self.shares]
        return torch.tensor([token for some in tokens for token in some], dtype=torch.int64)
