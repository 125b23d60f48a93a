"""Guesses from a small model that runs whole beside the first stage.

It draws with the request's own sampler, hence with the same noise: where the two models nearly agree they draw the
same token, at any temperature. It keeps pages for a few sequences at a time; another one takes the place of whoever was
asked longest ago. Knows nothing of grammars: a guess that one forbids is wrong like any other.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Generic

import torch
from torch import Tensor

from muster.cost.memory import DRAFT_SEQUENCES
from muster.serve.batch import make_batch
from muster.serve.guess.guesser import Prospect
from muster.serve.sampling import Sampler
from muster.serve.sequence import Sequence
from muster.serve.stage import CacheT, RunsLayers
from muster.serve.turn import MAX_GUESSES
from muster.wire.messages.generate import Admit, Row

FORGET = 0.9
"""What guesses took counts for so much after one more round of them."""


@dataclass(slots=True)
class _Seat:
    """The pages of one sequence."""

    pages: tuple[int, ...]
    request_id: str = ""
    computed: list[int] = field(default_factory=list)
    """Tokens whose keys and values are there."""
    used: int = 0


class DraftGuesser(Generic[CacheT]):
    """Implements `Guesser`. `stage` is a whole model, with the tokens of the one that it guesses for."""

    def __init__(
        self,
        stage: RunsLayers[CacheT],
        cache: CacheT,
        prefill_tokens: int = 512,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """The cache's pages are shared out evenly among `DRAFT_SEQUENCES`."""
        self._stage, self._cache = stage, cache
        self._prefill_tokens, self._clock = prefill_tokens, clock
        each = cache.num_pages // DRAFT_SEQUENCES
        self._seats = [_Seat(tuple(range(each * index, each * (index + 1)))) for index in range(DRAFT_SEQUENCES)]
        self._sampler = Sampler()
        self._guess_s = 0.0
        self._turns = 0

    def prospect(self, sequence: Sequence) -> Prospect | None:
        room = len(self._seats[0].pages) * self._cache.page_size - len(sequence.tokens)
        return Prospect("draft", min(MAX_GUESSES, room), self._guess_s) if room > 0 else None

    def guess(self, sequence: Sequence, count: int) -> tuple[int, ...]:
        began_s = self._clock()
        seat = self._seat(sequence)
        logits_1V = self._catch_up(seat, sequence.tokens)
        caught_up_s = self._clock()
        sampling = replace(sequence.request.sampling, grammar="", logprobs=None, prompt_logprobs=None)
        self._sampler.admit(Admit(0, tuple(sequence.tokens), len(sequence.request.prompt), sampling))
        guesses: list[int] = []
        try:
            while True:
                guesses.append(self._sampler.sample(logits_1V, [0])[0].token)
                if len(guesses) == count:
                    break
                logits_1V = self._run(seat, [guesses[-1]])
        finally:
            self._sampler.release(0)
        self._note(began_s, caught_up_s, count)
        return tuple(guesses)

    def forget(self, sequence: Sequence) -> None:
        for seat in self._seats:
            if seat.request_id == sequence.request.id:
                seat.request_id, seat.computed, seat.used = "", [], 0

    def _seat(self, sequence: Sequence) -> _Seat:
        name = sequence.request.id
        seat = next((seat for seat in self._seats if seat.request_id == name), None)
        if seat is None:
            seat = min(self._seats, key=lambda seat: seat.used)
            seat.request_id, seat.computed = name, []
        self._turns += 1
        seat.used = self._turns
        return seat

    def _catch_up(self, seat: _Seat, tokens: list[int]) -> Tensor:
        """Logits [1, V] behind `tokens`, of which the last runs in any case."""
        agreeing = 0
        for mine, theirs in zip(seat.computed, tokens[:-1], strict=False):
            if mine != theirs:
                break
            agreeing += 1
        del seat.computed[agreeing:]
        logits_1V = torch.empty(0)
        for start in range(agreeing, len(tokens), self._prefill_tokens):
            logits_1V = self._run(seat, tokens[start : start + self._prefill_tokens])
        return logits_1V

    def _run(self, seat: _Seat, tokens: list[int]) -> Tensor:
        start, size = len(seat.computed), self._cache.page_size
        seat.computed += tokens
        pages = seat.pages[: -(-len(seat.computed) // size)]
        batch = make_batch([Row(0, start, len(tokens), pages, 1)], size, self._stage.device)
        ids_T = torch.tensor(tokens, device=self._stage.device)
        return self._stage.run(batch, self._cache, ids_T, lambda logits_CV: None)

    def _note(self, began_s: float, caught_up_s: float, count: int) -> None:
        """A prompt that is read once is not what a guess takes."""
        each_s = (self._clock() - caught_up_s) / count
        each_s = each_s if count > 1 or not self._guess_s else self._guess_s
        self._guess_s = each_s if not self._guess_s else FORGET * self._guess_s + (1 - FORGET) * each_s
