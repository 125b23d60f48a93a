"""Steps of single stages, timed: what the constants of the forecast are fitted to. No pool, no link, no second process.

A model is cut as a pool would cut it, every stage an engine or a follower as a worker runs it, with some steps in
flight: each stage takes all of them, with a pause before each, before the next stage does. The pause is none, or as
long as that the processor forgets what it did. The first step of a stage follows one of another and is left out; every
other is one measurement, in processor time of the one thread that computes. The same steps are taken several times and
their median counts.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle, pairwise
from typing import Any, TypeVar

import torch

from benchmarks.forecast_models import DTYPE, shape_in
from muster.compress.raw import decode, encode
from muster.cost.fit import Measurement
from muster.cost.work import Work
from muster.model.load import load_stage
from muster.model.source import resolve
from muster.model.weights import open_directory
from muster.node.runners.serve.ring import MAX_HIDDEN_BYTES
from muster.serve.engine import Engine
from muster.serve.follower import Follower
from muster.serve.options import EngineOptions
from muster.spec.model_shape import ModelShape
from muster.spec.pool import Device
from muster.spec.request import Request
from muster.spec.sampling import Sampling
from muster.wire.messages.generate import Row, Step, StepDone

PAGE_SIZE = 16
DECODES = ((1, 32), (1, 400), (2, 128), (4, 32), (4, 300), (8, 128), (16, 32), (16, 256))
"""Sequences in a decode step, and about how many tokens each of them has cached."""
PROMPTS = (12, 40, 100, 200, 400)
FLIGHT, NEW_TOKENS, FEWEST = 4, 8, 3
"""Steps in flight; tokens of each answer. A kind of step that was seen fewer times than the last tells nothing."""
PAUSES_S = (0.0, 0.003, 0.01, 0.03)
"""Before a step. What others did meanwhile, the processor's caches and predictors remember: after some tens of
milliseconds a step of a small stage takes half as long again as one right after another, or twice as long."""
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Timed:
    """One step on one stage."""

    first: int
    last: int
    rows: tuple[Row, ...]
    pause_s: float
    """Before it."""
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

    def run(self, requests: Sequence[Request], pauses_s: Sequence[float]) -> list[Timed]:
        """All requests to their end, one flight of steps after the other, each with the next pause."""
        pages = sum(-(-(len(r.prompt) + r.sampling.max_tokens) // PAGE_SIZE) for r in requests) + len(requests)
        caches = [stage.new_cache(pages, PAGE_SIZE) for stage in self._stages]
        options = EngineOptions(self.shape.max_context, num_microbatches=FLIGHT)
        engine = Engine(self._stages[0], caches[0], options=options)
        followers = [Follower(*pair, epoch=0) for pair in zip(self._stages[1:], caches[1:], strict=True)]
        for request in requests:
            engine.submit(request)
        found: list[Timed] = []
        pauses = cycle(pauses_s)
        while engine.has_work:
            found += self._flight(engine, followers, next(pauses))
        return found

    def _flight(self, engine: Engine[Any], followers: Sequence[Follower[Any]], pause_s: float) -> Iterator[Timed]:
        """As `node/runtime` does it: what is sent on is encoded in the compute thread, and decoded there."""
        messages, times = [], []
        while engine.has_work:
            message, seconds = timed(partial(lead, engine), pause_s)
            if message is not None:
                messages.append(message)
                times.append(seconds)
        steps = [message[0] for message in messages]
        yield from self._timed(0, steps, pause_s, times)
        for stage, follower in enumerate(followers, 1):
            taken = [timed(partial(follow, follower, message), pause_s) for message in messages]
            messages = [message for message, _ in taken]
            yield from self._timed(stage, steps, pause_s, [seconds for _, seconds in taken])
        for done in messages:
            engine.receive(done)

    def _timed(self, stage: int, steps: Sequence[Step], pause_s: float, times: Sequence[float]) -> list[Timed]:
        pairs = list(zip(steps, times, strict=True))[1:]
        return [Timed(*self.ranges[stage], step.rows, pause_s, seconds) for step, seconds in pairs]


def lead(engine: Engine[Any]) -> Any:
    outputs = engine.step()
    return None if outputs.forward is None else (outputs.forward[0], *encode(outputs.forward[1]))


def follow(follower: Follower[Any], message: Any) -> Any:
    result = follower.run(message[0], decode(message[1], message[2], MAX_HIDDEN_BYTES))
    return result if isinstance(result, StepDone) else (result[0], *encode(result[1]))


def timed(work: Callable[[], Result], pause_s: float) -> tuple[Result, float]:
    if pause_s:
        time.sleep(pause_s)
    began_s = time.thread_time()
    result = work()
    return result, time.thread_time() - began_s


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
        fresh: list[Timed] = []
        for count, context in DECODES:
            prompt = min(context, longest - NEW_TOKENS)
            fresh += stages.run(requests_of(FLIGHT * count, prompt, NEW_TOKENS, vocab, number), PAUSES_S)
        for prompt in PROMPTS:
            for pause_s in (PAUSES_S[0], PAUSES_S[-1]):
                fresh += stages.run(requests_of(FLIGHT, prompt, 1, vocab, 1000 + number), (pause_s,))
        found += fresh if number else []
    return found


def medians(found: Sequence[Timed]) -> list[Timed]:
    """One step of each kind and pause that was seen often enough, with the median of their seconds."""
    kinds: dict[Any, list[Timed]] = {}
    for one in found:
        kinds.setdefault((one.kind, one.pause_s), []).append(one)
    often = [same for same in kinds.values() if len(same) >= FEWEST]
    return [replace(same[0], seconds=statistics.median(one.seconds for one in same)) for same in often]


def measurement(one: Timed, shape: ModelShape, device: Device, work: Work) -> Measurement:
    context = sum(row.start + row.length for row in one.rows) / len(one.rows)
    new = max(row.length for row in one.rows)
    label = f"{one.first}-{one.last} of {shape.num_layers}, {len(one.rows)} x {new} tokens, context {context:.0f}"
    label += f", {1e3 * one.pause_s:.0f} ms after the last"
    return Measurement(work, device, DTYPE, one.seconds, label, one.pause_s)
