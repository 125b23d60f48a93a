"""A pool that is a script: deterministic, as slow as asked, failing where asked, and it remembers who left."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from random import Random
from typing import Any

import numpy as np

from muster.spec.request import Finish, Progress, Request, Sampled, TokenLogprob
from muster.spec.scores import PromptScores
from muster.text.tokenizer import Tokenizer

SCRIPT = "The pool answers: café 🦀, then STOP and more words until the end of it all."


class FakeBackend:
    """Greedy requests get `script` and the end-of-text token; others get letters drawn from (seed, position)."""

    model = "fake"

    def __init__(self, tokenizer: Tokenizer, max_context: int = 512) -> None:
        self.tokenizer = tokenizer
        self.max_context = max_context
        self.vocab_size = tokenizer.vocabulary_size
        self.script = SCRIPT
        self.delay_s = 0.0
        self.fail_at: tuple[int, Exception] | None = None
        """After so many tokens, raise this."""
        self.ready = True
        self.requests: list[Request] = []
        self.cancelled: list[str] = []
        self.running = 0
        self.most_running = 0

    def status(self) -> dict[str, Any]:
        return {"ready": self.ready, "nodes": {"ready": 4, "standby": 1}, "names": ["a"], "queue-length": 2}

    async def generate(self, request: Request) -> AsyncIterator[Progress]:
        self.requests.append(request)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        finished = False
        try:
            for scores in self._scores(request):
                finish = (
                    Finish.LENGTH if request.sampling.max_tokens == 0 and scores.end == len(request.prompt) else None
                )
                finished = finish is not None
                yield Progress(request.id, 0, (), finish, scores)
                if finished:
                    return
            for index, token in enumerate(self.tokens(request)):
                if self.fail_at is not None and index == self.fail_at[0]:
                    finished = True
                    raise self.fail_at[1]
                await asyncio.sleep(self.delay_s)
                finish = self._finish(request, index, token)
                finished = finish is not None
                yield Progress(request.id, index, (self._sampled(request, token),), finish)
                if finished:
                    return
        finally:
            self.running -= 1
            if not finished:
                self.cancelled.append(request.id)

    def tokens(self, request: Request) -> list[int]:
        if request.sampling.temperature == 0:
            return [*self.tokenizer.encode(self.script), *self.tokenizer.end_of_text_ids]
        letters = [self.tokenizer.encode(letter)[0] for letter in "abcdefgh"]
        draws = (Random(f"{request.sampling.seed}/{position}") for position in range(request.sampling.max_tokens))
        return [draw.choice(letters) for draw in draws]

    @staticmethod
    def _scores(request: Request) -> Iterator[PromptScores]:
        """Three tokens at a time: position p has -p, rank p, and the first tokens of the vocabulary beside it."""
        kept = request.sampling.prompt_logprobs
        for first in range(1, len(request.prompt), 3) if kept is not None else ():
            positions = np.arange(first, min(first + 3, len(request.prompt)), dtype=np.int32)
            others = np.tile(np.arange(kept, dtype=np.int32), (len(positions), 1))
            yield PromptScores.pack(first, -positions.astype(np.float32), positions, others, -others.astype(np.float32))

    def _finish(self, request: Request, index: int, token: int) -> str | None:
        if token in self.tokenizer.end_of_text_ids or token in request.sampling.stop_token_ids:
            return Finish.STOP
        return Finish.LENGTH if index + 1 == request.sampling.max_tokens else None

    @staticmethod
    def _sampled(request: Request, token: int) -> Sampled:
        if request.sampling.logprobs is None:
            return Sampled(token)
        others = tuple(TokenLogprob(i, -float(i + 1)) for i in range(request.sampling.logprobs))
        return Sampled(token, -0.5 if token % 2 else -float("inf"), others)
