"""A pipeline in one process: an engine, its followers, and the steps between them as messages that were encoded."""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from torch import Tensor

from muster.serve.engine import Engine
from muster.serve.follower import Follower
from muster.serve.options import EngineOptions
from muster.serve.sampling import Sampler
from muster.spec.request import Progress, Request
from muster.wire.messages import Admit, Step, StepDone
from tests.serve.fake_stage import FakeCache, FakeStage, expected_logits


class Ring:
    """Steps travel one stage per `move`, as over a slow link."""

    def __init__(self, stages: Sequence[Any], caches: Sequence[Any], options: EngineOptions) -> None:
        self.engine = Engine(stages[0], caches[0], options=options)
        self.followers = [
            Follower(stage, cache, options.epoch) for stage, cache in zip(stages[1:], caches[1:], strict=True)
        ]
        self.queues: list[deque[Any]] = [deque() for _ in stages]
        self.tokens: dict[str, list[int]] = {}
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
        outputs = self.engine.step()
        self._note(outputs.progress)
        if outputs.forward is not None:
            self.queues[0].append(outputs.forward)
        return self.engine.stats().steps > before

    def move(self, index: int) -> bool:
        """Let what waits after stage `index` go one hop; whether anything was there."""
        if not self.queues[index]:
            return False
        item = self.queues[index].popleft()
        if isinstance(item, StepDone):
            self._note(self.engine.receive(through_wire(item, StepDone)))
            return True
        step, hidden = item
        self.queues[index + 1].append(self.followers[index].run(through_wire(step, Step), hidden))
        return True

    def run(self) -> None:
        """Until nothing is left to do."""
        moving = True
        while moving or self.engine.has_work:
            moving = any([self.move(index) for index in reversed(range(len(self.queues)))])
            if self.engine.has_work:
                self.step()
        assert set(self.finished) == set(self.tokens) - self.cancelled

    def _note(self, progress: Iterable[Progress]) -> None:
        for one in progress:
            tokens = self.tokens[one.request_id]
            assert one.index == len(tokens), "tokens were lost or repeated"
            assert one.request_id not in self.finished
            tokens += [sampled.token for sampled in one.tokens]
            if one.finish is not None:
                self.finished[one.request_id] = one.finish


def through_wire(message: Any, kind: Any) -> Any:
    return msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=kind)


def fake_ring(num_stages: int, num_pages: int, page_size: int, options: EngineOptions) -> Ring:
    stages = [FakeStage(index, num_stages) for index in range(num_stages)]
    return Ring(stages, [FakeCache(num_pages, page_size) for _ in stages], options)


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
