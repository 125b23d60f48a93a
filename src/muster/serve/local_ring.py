"""A whole pipeline in one process: the twin of stages on several machines, for benchmarks, tests and rehearsals.

Steps wait between stages as they would on a wire, and go one hop at a time. Knows nothing of links or encodings.
"""

from collections import deque
from collections.abc import Sequence
from typing import Generic

from muster.errors import MusterError
from muster.serve.constrain import Constraints
from muster.serve.engine import Engine
from muster.serve.follower import Follower
from muster.serve.guess.guessing import Guessing
from muster.serve.options import EngineOptions
from muster.serve.stage import CacheT, RunsLayers
from muster.spec.request import Progress
from muster.wire.messages.generate import Prepared, StepDone


class LocalRing(Generic[CacheT]):
    """`engine` takes requests; `work` until `busy` is false."""

    def __init__(
        self,
        stages: Sequence[RunsLayers[CacheT]],
        caches: Sequence[CacheT],
        options: EngineOptions,
        constraints: Constraints | None = None,
        guessing: Guessing | None = None,
    ) -> None:
        """`constraints` are those of the last stage."""
        self.engine = Engine(stages[0], caches[0], options=options, constraints=constraints, guessing=guessing)
        self._followers = [
            Follower(stage, cache, options.epoch, options.prefill_tokens, constraints)
            for stage, cache in zip(stages[1:], caches[1:], strict=True)
        ]
        self._constraints = constraints
        self.failed: dict[str, MusterError] = {}
        """Requests that ended without an answer."""
        self._done: deque[StepDone] = deque()

    @property
    def num_hops(self) -> int:
        return len(self._followers) + 1

    @property
    def busy(self) -> bool:
        return self.engine.has_work or self.engine.in_flight > 0

    def work(self) -> tuple[Progress, ...]:
        """Every step in flight moves one hop, then the engine runs."""
        returned = [progress for hop in reversed(range(self.num_hops)) for progress in self.move(hop)]
        return (*returned, *(self.step() if self.engine.has_work else ()))

    def step(self) -> tuple[Progress, ...]:
        outputs = self.engine.step()
        if outputs.forward is not None:
            self._followers[0].add(*outputs.forward)
        for number in outputs.forget:
            assert self._constraints is not None, "only a grammar that was prepared is forgotten"
            self._constraints.forget(number)
        for number, grammar in outputs.prepare:
            assert self._constraints is not None, "a ring without constraints was asked for a grammar"
            self._constraints.reserve(number, grammar)
            self.engine.prepared(Prepared(epoch=0, number=number, problem=self._constraints.prepare(number, grammar)))
        self.failed |= dict(outputs.failed)
        return outputs.progress

    def move(self, hop: int) -> tuple[Progress, ...]:
        """Let the oldest step that may run behind hop `hop` go on: through a follower, or home on the last."""
        if hop == len(self._followers):
            return self.engine.receive(self._done.popleft()) if self._done else ()
        if (due := self._followers[hop].take()) is not None:
            result = self._followers[hop].run(*due, self._followers[hop].coming())
            if isinstance(result, StepDone):
                self._done.append(result)
            else:
                self._followers[hop + 1].add(*result)
        return ()
