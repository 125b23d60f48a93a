"""Tokens of the backend to pieces of text, choice by choice. Knows no HTTP and no response format.

    backend.generate ──Progress──> ChoiceWriter ──Delta──> run_choice ──┐
                                   (pure)                  (timing)     ├──> run_choices
    ... once for every choice ...                                    ───┘

What a model writes around its reasoning and its calls of tools is read here, where a choice has a `reading`: a delta
then holds events (`text/tools/events`), which every API writes in its own form.

Seeds: choice 0 of a request is generated with the request's seed itself, choice i with a seed derived from
(seed, i) alone. So the first of `n` choices is what `n = 1` gives, and a prompt's choices do not depend on where
the prompt stands in a list. Without a seed one is drawn at random per request.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from hashlib import blake2s
from typing import cast

from muster.api.serving import Serving, Visit
from muster.api.stall import StallTimer
from muster.errors import PoolUnavailable
from muster.spec.request import Finish, Priority, Progress, Request, Sampled, TokenLogprob
from muster.spec.sampling import Sampling
from muster.spec.scores import PromptScores
from muster.text.stream import Released, TextStream, TokenSpan
from muster.text.tokenizer import Tokenizer
from muster.text.tools.events import Event, Said
from muster.text.tools.reading import Reading


@dataclass(frozen=True, slots=True)
class Choice:
    """One output that the client will get."""

    index: int
    request: Request
    stops: tuple[str, ...] = ()
    prompt_tokens: int = 0
    """What this choice adds to the usage: the choices after the first read the same prompt for nothing."""
    echo: str = ""
    """Text that goes before the output."""
    reading: Reading | None = None
    """None: all of the output is text for the user."""
    scores_every_token: bool = False
    """Also one that ends the text without being part of it: whoever scores a text counts its tokens."""


@dataclass(frozen=True, slots=True)
class ScoredToken:
    sampled: Sampled
    start: int
    """Characters of the choice's text before it."""
    rank: int | None = None
    """1 for the likeliest of all; known of a prompt's tokens."""
    is_first: bool = False
    """Nothing comes before it, so that it has no probability."""


@dataclass(frozen=True, slots=True)
class Delta:
    """The next piece of one choice. The last one has a `finish`."""

    choice: int
    text: str
    """As the model wrote it."""
    tokens: tuple[ScoredToken, ...] = ()
    finish: str | None = None
    events: tuple[Event, ...] = ()
    """What it says."""
    stop: str | None = None
    """The stop string that ended it."""
    prompt: tuple[ScoredToken, ...] = ()
    """All tokens of the prompt, before anything else, where their scores were asked for."""


def choice_seed(seed: int, choice: int) -> int:
    """The seed of one of `n` choices; that of choice 0 is the request's own."""
    if choice == 0:
        return seed
    digest = blake2s(f"{seed}/{choice}".encode(), person=b"choice").digest()
    return int.from_bytes(digest[:8], "big") >> 1


def choices_of_prompt(
    visit: Visit,
    prompt: tuple[int, ...],
    sampling: Sampling,
    *,
    n: int,
    stops: tuple[str, ...],
    priority: Priority,
    first_index: int = 0,
    echo: str = "",
    reading: Reading | None = None,
    scores_every_token: bool = False,
) -> list[Choice]:
    """`n` choices that continue one prompt, numbered from `first_index`."""
    return [
        Choice(
            index=first_index + i,
            request=Request(
                id=f"{visit.id}-{first_index + i}",
                prompt=prompt,
                sampling=replace(sampling, seed=choice_seed(sampling.seed, i)),
                priority=priority,
            ),
            stops=stops,
            prompt_tokens=len(prompt) if i == 0 else 0,
            echo=echo,
            reading=reading,
            scores_every_token=scores_every_token,
        )
        for i in range(n)
    ]


def without_prompt_scores(choice: Choice) -> Choice:
    request = choice.request
    return replace(choice, request=replace(request, sampling=replace(request.sampling, prompt_logprobs=None)))


class ChoiceWriter:
    """Turns the progress of one choice into deltas. Pure."""

    def __init__(self, tokenizer: Tokenizer, choice: Choice) -> None:
        sampling = choice.request.sampling
        self._choice = choice
        self._reader = choice.reading.start(choice.request.id) if choice.reading else None
        self._wants_scores = sampling.logprobs is not None
        self._stream = TextStream(
            _spelling(tokenizer, choice), choice.stops, sampling.min_tokens, places_tokens=self._wants_scores
        )
        self._stop_ids = {*tokenizer.end_of_text_ids, *sampling.stop_token_ids}
        self._scores: dict[int, Sampled] = {}
        self._characters = len(choice.echo)
        self.received = 0
        """Tokens taken, including those of a stop string."""

    def write(self, progress: Progress) -> Delta:
        already = self.received - progress.index
        if already < 0:
            raise PoolUnavailable("Some tokens of this answer were lost on the way; send the request again.")
        pieces: list[str] = []
        spans: list[TokenSpan] = []
        finish, ending = progress.finish, None
        for sampled in progress.tokens[already:]:
            self.received += 1
            if self._ends_the_text(sampled, progress):
                ending = sampled
                continue
            released = self._push(sampled)
            pieces.append(released.text)
            spans.extend(released.tokens)
            if self._stream.stopped:
                finish = Finish.STOP
                break
        if finish is not None:
            released = self._stream.finish()
            pieces.append(released.text)
            spans.extend(released.tokens)
            finish = Finish.STOP if self._stream.stopped else finish
        text, before = "".join(pieces), len(self._choice.echo)
        scored = [ScoredToken(self._scores.pop(span.index), before + span.start) for span in spans]
        self._characters += len(text)
        if ending is not None and self._choice.scores_every_token:
            scored.append(ScoredToken(ending, self._characters))
        events, finish = self._read(text, finish)
        return Delta(self._choice.index, text, tuple(scored), finish, events, self._stream.stop)

    def _read(self, text: str, finish: str | None) -> tuple[tuple[Event, ...], str | None]:
        """What the text says, and whether a complete call is why it ends."""
        if self._reader is None:
            return ((Said(text),) if text else ()), finish
        events, turn = self._reader.feed(text), self._reader.turn
        if turn.over:
            return events, Finish.TOOL_CALLS
        if finish is not None:
            events += self._reader.finish()
            if finish == Finish.STOP and turn.calls and not turn.unfinished:
                finish = Finish.TOOL_CALLS
        return events, finish

    def _push(self, sampled: Sampled) -> Released:
        if self._wants_scores:
            self._scores[self._stream.pushed] = sampled
        return self._stream.push(sampled.token)

    def _ends_the_text(self, sampled: Sampled, progress: Progress) -> bool:
        """The token that made the backend stop is counted but is no part of the text, whatever it spells."""
        is_last = self.received == progress.index + len(progress.tokens)
        return is_last and progress.finish == Finish.STOP and sampled.token in self._stop_ids


def _spelling(tokenizer: Tokenizer, choice: Choice) -> Callable[[int], bytes]:
    spelled = choice.reading.spelled if choice.reading else {}
    return (lambda id: spelled.get(id) or tokenizer.token_bytes(id)) if spelled else tokenizer.token_bytes


class Opening:
    """What comes before the output of a choice: the echo of its prompt, and the scores of that. Pure."""

    def __init__(self, tokenizer: Tokenizer, choice: Choice) -> None:
        self._tokenizer = tokenizer
        self._choice = choice
        self._scores: list[PromptScores] = []
        self._wants_scores = choice.request.sampling.prompt_logprobs is not None
        self._is_out = not choice.echo and not self._wants_scores

    def take(self, scores: PromptScores | None) -> Delta | None:
        """The opening, once all that belongs to it is there."""
        request = self._choice.request
        if scores is not None:
            self._scores.append(scores)
        known = self._scores[-1].end - 1 if self._scores else 0
        if self._is_out or known < request.num_scores:
            return None
        self._is_out = True
        scored = scored_prompt(self._tokenizer, request.prompt, self._scores) if self._wants_scores else ()
        said = (Said(self._choice.echo),) if self._choice.echo else ()
        return Delta(self._choice.index, self._choice.echo, events=said, prompt=tuple(scored))


def scored_prompt(tokenizer: Tokenizer, prompt: Sequence[int], scores: Sequence[PromptScores]) -> Iterator[ScoredToken]:
    stream = TextStream(tokenizer.token_bytes)
    released = [stream.push(token) for token in prompt]
    starts = [span.start for each in [*released, stream.finish()] for span in each.tokens]
    yield ScoredToken(Sampled(prompt[0]), 0, is_first=True)
    position = 1
    for piece in scores:
        columns = (piece.logprobs, piece.ranks, piece.tokens, piece.others)
        for logprob, rank, tokens, others in zip(*(column.tolist() for column in columns), strict=True):
            top = tuple(map(TokenLogprob, tokens, others))
            yield ScoredToken(Sampled(prompt[position], logprob, top), starts[position], rank)
            position += 1


async def run_choice(serving: Serving, visit: Visit, choice: Choice) -> AsyncGenerator[Delta, None]:
    """Generate one choice. Closing the iterator, or a stop string, closes the backend's."""
    writer = ChoiceWriter(serving.tokenizer, choice)
    opening = Opening(serving.tokenizer, choice)
    if (opened := opening.take(None)) is not None:
        yield opened
    previous_s: float | None = None
    finish: str | None = None
    visit.submitted_s = visit.submitted_s or time.perf_counter()
    stream = cast(AsyncGenerator[Progress, None], serving.backend.generate(choice.request))
    async with aclosing(stream), StallTimer(serving.options.stall_s) as stall:
        while finish is None:
            progress = await _next_progress(stream, stall)
            if (opened := opening.take(progress.scores)) is not None:
                yield opened
            before = writer.received
            delta = writer.write(progress)
            new = writer.received - before
            if previous_s is None:
                visit.count_prompt(choice.prompt_tokens)
            visit.count_completion(new)
            previous_s = _observe(serving, visit, new, previous_s)
            finish = delta.finish
            if delta.text or delta.tokens or delta.events or finish:
                yield delta


async def _next_progress(stream: AsyncGenerator[Progress, None], stall: StallTimer) -> Progress:
    try:
        progress = await stall.wait(anext(stream))
    except StopAsyncIteration:
        raise PoolUnavailable("The answer broke off before its end; send the request again.") from None
    if progress.finish == Finish.CANCELLED:
        raise PoolUnavailable("The pool gave this request up; send it again.")
    return progress


def _observe(serving: Serving, visit: Visit, new: int, previous_s: float | None) -> float | None:
    """Latency of the tokens that just came. Returns when they came."""
    if new == 0:
        return previous_s
    now_s = time.perf_counter()
    visit.first_token_s = visit.first_token_s or now_s
    if previous_s is None:
        serving.metrics.time_to_first_token.observe(now_s - visit.arrived_s)
    else:
        serving.metrics.inter_token_latency.observe((now_s - previous_s) / new)
    return now_s


async def run_choices(serving: Serving, visit: Visit, choices: Sequence[Choice]) -> AsyncGenerator[Delta, None]:
    """All choices at once, their deltas as they come. The first error ends them all."""
    grammar = choices[0].request.sampling.grammar  # of one request, so they have it in common
    with serving.grammars.use(visit.owner, grammar):
        running = run_choice(serving, visit, choices[0]) if len(choices) == 1 else _run_several(serving, visit, choices)
        async with aclosing(running) as deltas:
            async for delta in deltas:
                yield delta


async def _run_several(serving: Serving, visit: Visit, choices: Sequence[Choice]) -> AsyncGenerator[Delta, None]:
    # Bounded, so that a client who reads slowly slows the choices down instead of filling memory.
    queue: asyncio.Queue[Delta | Exception] = asyncio.Queue(maxsize=4 * len(choices))

    async def pump(choice: Choice) -> None:
        try:
            async with aclosing(run_choice(serving, visit, choice)) as stream:
                async for delta in stream:
                    await queue.put(delta)
        except Exception as error:
            await queue.put(error)

    tasks = [asyncio.create_task(pump(choice)) for choice in choices]
    try:
        unfinished = len(tasks)
        while unfinished:
            item = await queue.get()
            if isinstance(item, Exception):
                raise item
            unfinished -= item.finish is not None
            yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
