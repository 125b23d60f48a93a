"""Steps of single stages, timed: what the constants of the forecast are fitted to. No pool, no link, no second process.

A model is cut as a pool would cut it, every stage an engine or a follower as a worker runs it, one request after the
other through them; each step of each stage is one measurement, in processor time of the one thread that computes. The
same steps are taken several times and their median counts.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import torch

from benchmarks.forecast_models import DTYPE, shape_in
from muster.compress.raw import decode, encode
from muster.cost.fit import Measurement
from muster.cost.work import Work
from muster.model.load import load_stage
from muster.model.source import resolve
from muster.model.weights import open_directory
from muster.node.runtime import MAX_HIDDEN_BYTES
from muster.serve.engine import Engine
from muster.serve.follower import Follower
from muster.serve.options import EngineOptions
from muster.spec.model_shape import ModelShape
from muster.spec.pool import Device
from muster.spec.request import Request
from muster.spec.sampling import Sampling
from muster.wire.messages import Row, Step, StepDone

PAGE_SIZE = 16
DECODES = ((1, 32), (1, 400), (2, 128), (4, 32), (4, 300), (8, 128), (16, 32), (16, 256))
"""Sequences in a decode step, and about how many tokens each of them has cached."""
PROMPTS = (12, 40, 100, 200, 400)
NEW_TOKENS = 8
PAUSE_S, PAUSES, FEWEST = 0.01, 1.0, 3
"""Between two steps: at least, and as a multiple of the step, as on a worker that lends half of its speed. What others
did meanwhile, the processor's caches and predictors remember, and a step of a small stage takes half as long again as
one right after another. A kind of step that was seen fewer times than that tells nothing."""
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Timed:
    """One step on one stage."""

    first: int
    last: int
    rows: tuple[Row, ...]
    seconds: float

    @property
    def kind(self) -> tuple[int, int, tuple[int, ...], int]:
        """Steps of one kind have the same stage, the same lengths, and nearly the same context."""
        lengths = tuple(row.length for row in self.rows)
        return self.first, self.last, lengths, sum(row.start for row in self.rows) // (64 * len(self.rows))


class Stages:
    """A model cut into stages in this process, each timed."""

    def __init__(self, folder: str, cuts: Sequence[int]) -> None:
        self.shape = shape_in(folder)
        weights, dtype = open_directory(resolve(folder)), getattr(torch, DTYPE)
        self.ranges = list(pairwise(cuts))
        self._stages = [load_stage(weights, a, b, dtype, torch.device("cpu")) for a, b in self.ranges]

    def run(self, requests: Sequence[Request]) -> list[Timed]:
        """All requests to their end, one step at a time through all stages."""
        pages = sum(-(-(len(r.prompt) + r.sampling.max_tokens) // PAGE_SIZE) for r in requests) + len(requests)
        caches = [stage.new_cache(pages, PAGE_SIZE) for stage in self._stages]
        engine = Engine(self._stages[0], caches[0], options=EngineOptions(self.shape.max_context))
        followers = [Follower(*pair, epoch=0) for pair in zip(self._stages[1:], caches[1:], strict=True)]
        for request in requests:
            engine.submit(request)
        found: list[Timed] = []
        while engine.has_work:
            found += self._once(engine, followers)
        return found

    def _once(self, engine: Engine[Any], followers: Sequence[Follower[Any]]) -> Iterator[Timed]:
        """As `node/runtime` does it: what is sent on is encoded in the compute thread, and decoded there."""
        done: StepDone | None = None

        def first() -> tuple[Step, Any, Any] | None:
            outputs = engine.step()
            return None if outputs.forward is None else (outputs.forward[0], *encode(outputs.forward[1]))

        message, seconds = timed(first)
        if message is None:
            return
        step = message[0]
        times = [seconds]
        for follower in followers:

            def later(follower: Follower[Any] = follower, message: Any = message) -> Any:
                result = follower.run(message[0], decode(message[1], message[2], MAX_HIDDEN_BYTES))
                return result if isinstance(result, StepDone) else (result[0], *encode(result[1]))

            message, seconds = timed(later)
            times.append(seconds)
        done = message
        assert isinstance(done, StepDone)
        engine.receive(done)
        for (a, b), seconds in zip(self.ranges, times, strict=True):
            yield Timed(a, b, step.rows, seconds)


def timed(work: Callable[[], Result]) -> tuple[Result, float]:
    began_s = time.thread_time()
    result = work()
    seconds = time.thread_time() - began_s
    time.sleep(max(PAUSE_S, PAUSES * seconds))
    return result, seconds


def requests_of(count: int, prompt: int, new_tokens: int, vocab: int, seed: int) -> list[Request]:
    generator = torch.Generator().manual_seed(seed)
    sampling = Sampling(max_tokens=new_tokens, temperature=0.0, ignore_eos=True)
    drawn = torch.randint(vocab, (count, prompt), generator=generator).tolist()
    return [Request(f"{seed}-{index}", tuple(ids), sampling) for index, ids in enumerate(drawn)]


def steps_of(stages: Stages, rounds: int) -> list[Timed]:
    """Every decode batch and every prompt length, `rounds` times, the first of which warms up and is left out."""
    vocab, longest = stages.shape.vocab_size, stages.shape.max_context
    found: list[Timed] = []
    for number in range(rounds + 1):
        for count, context in DECODES:
            fresh = stages.run(requests_of(count, min(context, longest - NEW_TOKENS), NEW_TOKENS, vocab, number))
            found += fresh if number else []
        for prompt in PROMPTS:
            fresh = stages.run(requests_of(1, prompt, 2, vocab, 1000 + number))
            found += fresh if number else []
    return found


def medians(found: Sequence[Timed]) -> list[Timed]:
    """One step of each kind that was seen often enough, with the median of their seconds."""
    kinds: dict[Any, list[Timed]] = {}
    for one in found:
        kinds.setdefault(one.kind, []).append(one)
    often = [same for same in kinds.values() if len(same) >= FEWEST]
    middle = [sorted(same, key=lambda t: t.seconds)[len(same) // 2] for same in often]
    return [Timed(t.first, t.last, t.rows, statistics.median(s.seconds for s in kinds[t.kind])) for t in middle]


def measurement(one: Timed, shape: ModelShape, device: Device, work: Work) -> Measurement:
    context = sum(row.start + row.length for row in one.rows) / len(one.rows)
    new = max(row.length for row in one.rows)
    label = f"{one.first}-{one.last} of {shape.num_layers}, {len(one.rows)} x {new} tokens, context {context:.0f}"
    return Measurement(work, device, DTYPE, one.seconds, label)
