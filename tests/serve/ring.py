"""A pipeline in one process that remembers what every request got, and a fake one to run it on."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from muster.serve.constrain import Constraints
from muster.serve.guess.guessing import Guessing
from muster.serve.local_ring import LocalRing
from muster.serve.options import EngineOptions
from muster.serve.sampling import Sampler
from muster.spec.request import Progress, Request
from muster.spec.scores import PromptScores
from muster.wire.messages.generate import Admit
from tests.serve.fake_stage import FakeCache, FakeStage, FakeSwappingCache, expected_logits


class Ring:
    """Steps travel one hop per `move`, as over a slow link."""

    def __init__(
        self,
        stages: Sequence[Any],
        caches: Sequence[Any],
        options: EngineOptions,
        constraints: Constraints | None = None,
        guessing: Guessing | None = None,
    ) -> None:
        self.local: LocalRing[Any] = LocalRing(stages, caches, options, constraints, guessing)
        self.engine = self.local.engine
        self.tokens: dict[str, list[int]] = {}
        self.scores: dict[str, PromptScores] = {}
        """Of the whole prompt so far."""
        self.finished: dict[str, str] = {}
        self.cancelled: set[str] = set()

    def submit(self, request: Request) -> None:
        self.engine.submit(request)
        self.tokens[request.id] = list(request.emitted)

    def cancel(self, request_id: str) -> None:
        self.engine.cancel(request_id)
        self.cancelled.add(request_id)

    def step(self) -> bool:
        """One engine step; whether it ran anything."""
        before = self.engine.stats().steps
        self._note(self.local.step())
        return self.engine.stats().steps > before

    def move(self, hop: int) -> None:
        self._note(self.local.move(hop))

    def run(self) -> None:
        """Until nothing is left to do."""
        while self.local.busy:
            self._note(self.local.work())
        assert set(self.finished) == set(self.tokens) - self.cancelled - set(self.local.failed)

    def _note(self, progress: Iterable[Progress]) -> None:
        for one in progress:
            tokens = self.tokens[one.request_id]
            assert one.index == len(tokens), "tokens were lost or repeated"
            assert one.request_id not in self.finished
            tokens += [sampled.token for sampled in one.tokens]
            if one.scores is not None:
                self.scores[one.request_id] = joined(self.scores.get(one.request_id), one.scores)
            if one.finish is not None:
                self.finished[one.request_id] = one.finish


def joined(before: PromptScores | None, more: PromptScores) -> PromptScores:
    if before is None:
        return more
    new = more.behind(before.end)
    assert new.first == before.end, "scores were lost"
    return replace(before, data=before.data + new.data)


def fake_ring(
    num_stages: int,
    num_pages: int,
    page_size: int,
    options: EngineOptions,
    constraints: Constraints | None = None,
    num_frames: int = 0,
    guessing: Guessing | None = None,
) -> Ring:
    """With `num_frames`, so many of the pages are in memory at once."""
    stages = [FakeStage(index, num_stages) for index in range(num_stages)]
    caches = [
        FakeSwappingCache(num_pages, num_frames, page_size) if num_frames else FakeCache(num_pages, page_size)
        for _ in stages
    ]
    return Ring(stages, caches, options, constraints, guessing)


def alone(
    request: Request, num_stages: int, max_context: int, eos_token_ids: frozenset[int] = frozenset()
) -> list[int]:
    """What the fake model answers to a request without any engine."""
    sampler = Sampler()
    tokens = [*request.prompt, *request.emitted]
    sampler.admit(Admit(0, tuple(tokens), len(request.prompt), request.sampling))
    limit = min(len(request.prompt) + request.sampling.max_tokens, max_context)
    stops = {*request.sampling.stop_token_ids, *(() if request.sampling.ignore_eos else eos_token_ids)}
    while len(tokens) < limit:
        logits: Tensor = expected_logits(tokens, num_stages)[None]
        tokens.append(sampler.sample(logits, [0])[0].token)
        if tokens[-1] in stops:
            break
    return tokens[len(request.prompt) :]
