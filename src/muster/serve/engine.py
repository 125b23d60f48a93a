"""The head of the ring: it holds the first stage, decides every step and hands tokens out.

With one stage a step ends here. With more, `step` returns what the next stage must get, and the tokens come back
through `receive`; meanwhile further microbatches run. Knows nothing of sockets, clocks, text or later stages. Not
thread-safe: whoever drives it calls one method at a time.
"""

from collections.abc import Sequence as Several
from dataclasses import dataclass, replace
from typing import Generic

from torch import Tensor

from muster.errors import ContextTooLong, InvalidRequest, MusterError, StepFailed
from muster.serve.accept import check_ends, check_epoch, check_sampled, check_scores, check_spent, counts_of, require
from muster.serve.constrain import Constraints
from muster.serve.grammar_book import GrammarBook
from muster.serve.guess.guessing import Guessing
from muster.serve.options import EngineOptions
from muster.serve.order import MAX_AHEAD, StepOrder
from muster.serve.pages import PagePool
from muster.serve.run import run_step
from muster.serve.sampling import Sampler
from muster.serve.schedule import Scheduler
from muster.serve.sequence import Sequence, State, finish_reason
from muster.serve.stage import CacheT, RunsLayers
from muster.serve.turn import StepRow, Turn
from muster.sim.serve.in_flight import StepsInFlight
from muster.spec.guesses import GuessCounts
from muster.spec.receipt import receipt_name
from muster.spec.request import Finish, Progress, Request, Sampled
from muster.spec.scores import PromptScores
from muster.wire.messages.generate import Admit, Prepared, Step, StepDone

MAX_PROBLEM = 500
"""Characters of another machine's words about a grammar."""
_BROKEN = "The answer cannot go on in the grammar that was asked for: {}; ask for something simpler."


@dataclass(frozen=True, slots=True)
class Outputs:
    """What one call of `step` yields. Empty if nothing could run."""

    progress: tuple[Progress, ...] = ()
    """New tokens, to be sent to whoever submitted."""
    forward: tuple[Step, Tensor] | None = None
    """A step and its hidden state [T, H], to be sent to the next stage."""
    prepare: tuple[tuple[int, str], ...] = ()
    """Grammars that the last stage must compile before anything else goes on with them; answered by `prepared`."""
    forget: tuple[int, ...] = ()
    """Grammars that it must forget before that; no step is under way."""
    failed: tuple[tuple[str, MusterError], ...] = ()
    """Requests that ended, and why."""


@dataclass(frozen=True, slots=True)
class EngineStats:
    running: int
    waiting: int
    in_flight: int
    most_in_flight: int
    """As many as there should be now."""
    num_pages: int
    available_pages: int
    steps: int
    computed_tokens: int
    generated_tokens: int
    reused_tokens: int
    preemptions: int


class Engine(Generic[CacheT]):
    """Serves requests on one pipeline: `submit`, then `step` and `receive` until they have ended."""

    def __init__(
        self,
        stage: RunsLayers[CacheT],
        cache: CacheT,
        *,
        options: EngineOptions,
        constraints: Constraints | None = None,
        guessing: Guessing | None = None,
    ) -> None:
        """`constraints` are those of a stage that is also the last. Without `guessing` every pass brings one token."""
        if stage.is_last:
            # Nothing is ever in flight, so there is nothing to split the requests for.
            options = replace(options, num_microbatches=1, max_microbatches=1)
        self._stage = stage
        self._cache = cache
        self._options = options
        self._pages = PagePool(cache.num_pages, cache.page_size)
        self._guessing = guessing
        self._in_flight = StepsInFlight(options.num_microbatches, options.max_microbatches)
        self._sampler = Sampler(constraints)
        self.constraints = constraints
        self._grammars = GrammarBook()
        self._sequences: dict[str, Sequence] = {}
        self._flight: dict[int, tuple[Step, list[StepRow]]] = {}
        guess_for = None if guessing is None else guessing.guess
        self._scheduler = Scheduler(self._pages, options, cache.step_pages, guess_for, self._flight)
        self._returns: StepOrder[StepDone] = StepOrder()
        self._ended_early: list[Progress] = []
        self._failed: list[tuple[str, MusterError]] = []
        self._nothing_to_do = False
        self._arrivals = 0
        self._steps = 0
        self._computed_tokens = 0
        self._generated_tokens = 0

    def step(self) -> Outputs:
        """Run at most one microbatch through this stage."""
        outputs = self._run()
        failed, self._failed = tuple(self._failed), []
        asked = self._grammars.take_asked()
        # A step would carry them, but there may be none: every request may end before it runs.
        forget = self._grammars.take_forgotten() if asked and not self._flight else ()
        self._grammars.gone(forget)
        return replace(outputs, prepare=asked, forget=forget, failed=failed)

    def _run(self) -> Outputs:
        progress, self._ended_early = tuple(self._ended_early), []
        turn = self._scheduler.turn(self.most_in_flight) if self.has_place else None
        if turn is None:
            self._nothing_to_do = True
            return Outputs(progress)
        step = self._describe(turn)
        if self._guessing is not None and all(share.decodes for share in turn.shares):
            self._guessing.sent(step.sequence, sum(share.length for share in turn.shares))
        try:
            result = run_step(self._stage, self._cache, self._sampler, step, turn.tokens())
        except StepFailed as error:
            if not self._stage.is_last:
                raise
            self._lose(step, turn, error)
            return Outputs(progress)
        self._flight[step.sequence] = (step, turn.shares)
        if not isinstance(result, StepDone):
            return Outputs(progress, (step, result))
        return Outputs(progress + self._take_in(step, result))

    def receive(self, done: StepDone) -> tuple[Progress, ...]:
        """Tokens from the last stage, in any order; nothing new where they came before."""
        check_epoch(self._options.epoch, done)
        require(0 <= done.sequence < self._steps, f"Step {done.sequence} came back where none was in flight")
        if done.sequence not in self._flight:
            return ()
        step, shares = self._flight[done.sequence]
        counts_of(done, [share for share in shares if share.samples])
        check_sampled(done.sampled, self._stage.vocab_size)
        check_ends(done)
        check_spent(done.spent)
        check_scores(done.scores, [share for share in shares if share.scores], self._stage.vocab_size)
        return self._take_in(step, done)

    def observe(self, stage_s: Several[float], latency_s: float) -> None:
        """What a step that came back took at each stage, and on its way between them."""
        self._in_flight.observe(stage_s, latency_s)
        self._nothing_to_do = False

    def prepared(self, answer: Prepared) -> None:
        """A grammar is ready, or cannot be used."""
        waiting = self._grammars.answered(answer.number, answer.problem)
        require(waiting is not None, f"Grammar {answer.number} was prepared, which nobody had asked for")
        for sequence in waiting or ():
            if answer.problem:
                self._fail(sequence, InvalidRequest(answer.problem[:MAX_PROBLEM], "grammar"))
                continue
            try:
                self._scheduler.add(sequence)
            except MusterError as error:
                self._fail(sequence, error)
        self._nothing_to_do = False

    def submit(self, request: Request) -> None:
        """Queue a request, or a continuation: prompt + emitted tokens go on as if never interrupted.

        Raises `InvalidRequest` (also as `ContextTooLong`), or `LimitReached` if the queue is full.
        """
        self._check_request(request)
        sequence = Sequence(request, self._arrivals, [*request.prompt, *request.emitted])
        reason = self._finish_reason(sequence)
        if reason is None:
            if self._grammars.enter(sequence):
                try:
                    self._scheduler.add(sequence)
                except MusterError:
                    self._grammars.leave(sequence)
                    raise
            self._sequences[request.id] = sequence
            self._nothing_to_do = False
        else:
            self._ended_early.append(Progress(request.id, sequence.num_emitted, (), reason))
        self._arrivals += 1

    def cancel(self, request_id: str) -> None:
        """Forget a request, whatever its state; a request that is not here is none."""
        if (sequence := self._sequences.get(request_id)) is not None:
            self._end(sequence)

    @property
    def has_work(self) -> bool:
        """Whether `step` may achieve something before the next `receive`, `submit` or `cancel`."""
        if self._ended_early or self._failed or self._grammars.has_asked:
            return True
        return self.has_place and not self._nothing_to_do and self._scheduler.could_run

    @property
    def most_in_flight(self) -> int:
        """Steps that there should be in flight now."""
        return self._in_flight.limit

    @property
    def has_place(self) -> bool:
        """Whether one more step may be in flight."""
        return self.in_flight < self.most_in_flight and self._steps < self._returns.floor + MAX_AHEAD

    @property
    def in_flight(self) -> int:
        """Steps sent on whose tokens have not come back."""
        return len(self._flight)

    def stats(self) -> EngineStats:
        return EngineStats(
            running=len(self._scheduler.running),
            waiting=self._scheduler.num_waiting,
            in_flight=self.in_flight,
            most_in_flight=self.most_in_flight,
            num_pages=self._pages.num_pages,
            available_pages=self._pages.available,
            steps=self._steps,
            computed_tokens=self._computed_tokens,
            generated_tokens=self._generated_tokens,
            reused_tokens=self._scheduler.reused_tokens,
            preemptions=self._scheduler.preemptions,
        )

    def guess_counts(self) -> GuessCounts:
        return GuessCounts() if self._guessing is None else self._guessing.counts()

    def check(self) -> None:
        """Raise AssertionError unless all books agree."""
        self._scheduler.check()
        self._grammars.check(self._sequences.values())
        assert set(map(id, self._scheduler.running)) <= set(map(id, self._sequences.values())), "an unknown one runs"
        owed = {id(share.sequence) for _, shares in self._flight.values() for share in shares if share.samples}
        for sequence in self._sequences.values():
            assert sequence.state is not State.ENDED, "an ended request is still listed"
            assert sequence.awaiting == (id(sequence) in owed), "a token is awaited that nobody will send"
        assert self.in_flight <= self._options.max_microbatches, "too many steps in flight"

    def _lose(self, step: Step, turn: Turn, error: StepFailed) -> None:
        """The step did not come to its end here, and nobody else knows of it: its requests end with that reason."""
        self._scheduler.lost(turn)
        for share in turn.shares:
            self._fail(share.sequence, error)
        if self._guessing is not None:
            self._guessing.returned(step.sequence)
        self._grammars.gone(step.forget)
        self._returns.add(step.sequence, step.after, StepDone(epoch=step.epoch, sequence=step.sequence, sampled=()))
        self._returns.take()

    def _describe(self, turn: Turn) -> Step:
        """The turn as a message. The hidden state's header is added by whoever sends it."""
        rows = tuple(share.row(self._pages.page_size) for share in turn.shares)
        forget = self._grammars.take_forgotten()
        step = Step(
            epoch=self._options.epoch,
            sequence=turn.number,
            # A grammar is forgotten when nobody uses it any more.
            after=turn.number - 1 if forget else turn.after,
            closed=self._returns.floor,
            rows=rows,
            copies=tuple(turn.copies),
            admit=tuple(map(self._admit, turn.admitted)),
            release=tuple(turn.released),
            guesses=tuple(share.guesses for share in turn.shares if share.guesses),
            forget=forget,
            named=tuple((s.slot, receipt_name(s.request.id)) for s in turn.admitted),
        )
        self._steps = turn.number + 1
        self._computed_tokens += sum(row.length for row in rows)
        return step

    def _admit(self, sequence: Sequence) -> Admit:
        sampling = replace(sequence.request.sampling, grammar="")
        context, num_prompt = tuple(sequence.tokens), len(sequence.request.prompt)
        return Admit(sequence.slot, context, num_prompt, sampling, self._grammars.number_of(sequence))

    def _take_in(self, step: Step, done: StepDone) -> tuple[Progress, ...]:
        """What is said now that this is back: of this step, and of those that waited for it."""
        self._returns.add(step.sequence, step.after, done)
        progress: tuple[Progress, ...] = ()
        while (due := self._returns.take()) is not None:
            progress += self._emit(due)
        return progress

    def _emit(self, done: StepDone) -> tuple[Progress, ...]:
        """Hand the tokens of a step to their sequences; those that were cancelled meanwhile get none."""
        step, shares = self._flight.pop(done.sequence)
        if self._guessing is not None:
            self._guessing.returned(step.sequence)
        self._grammars.gone(step.forget)
        self._nothing_to_do = False
        broken, progress = dict(done.broken), []
        counts, scores = iter(counts_of(done, [share for share in shares if share.samples])), iter(done.scores)
        end = 0
        for share in shares:
            sequence = share.sequence
            begin, end = end, end + (next(counts) if share.samples else 0)
            known = next(scores) if share.scores else None
            if sequence.state is State.ENDED or (begin == end and known is None):
                continue
            self._judge(share, end - begin)
            problem = broken.get(end - 1) if begin < end else None
            sampled = done.sampled[begin:end] if problem is None else done.sampled[begin : end - 1]
            if sampled or known is not None:
                progress.append(self._extend(sequence, sampled, known, end - 1 in done.complete))
            if problem is not None and sequence.request.id in self._sequences:
                self._fail(sequence, InvalidRequest(_BROKEN.format(problem[:MAX_PROBLEM]), "grammar"))
        return tuple(progress)

    def _extend(
        self, sequence: Sequence, sampled: tuple[Sampled, ...], scores: PromptScores | None, complete: bool
    ) -> Progress:
        """What came behind the end of a sequence is dropped; `complete`: nothing may follow the last."""
        index, reason = sequence.num_emitted, None
        if not sampled:
            return Progress(sequence.request.id, index, (), None, scores)
        taken = 0
        while reason is None and taken < len(sampled):
            sequence.tokens.append(sampled[taken].token)
            taken += 1
            is_complete = complete and taken == len(sampled)
            reason = Finish.STOP if is_complete else self._finish_reason(sequence)
        self._generated_tokens += taken
        self._scheduler.received(sequence, taken)
        if reason is not None:
            self._end(sequence)
        # Where only scores are wanted, the prompt's last token ran like any other, and what it chose is not.
        wanted = sampled[:taken] if sequence.request.sampling.max_tokens else ()
        return Progress(sequence.request.id, index, wanted, reason, scores)

    def _judge(self, share: StepRow, count: int) -> None:
        """Of its guesses all but one less than `count` were wrong."""
        if self._guessing is not None and share.decodes:
            self._guessing.judged(share.sequence, len(share.guesses), count - 1)

    def _fail(self, sequence: Sequence, error: MusterError) -> None:
        self._failed.append((sequence.request.id, error))
        self._end(sequence)

    def _end(self, sequence: Sequence) -> None:
        self._scheduler.end(sequence)
        self._grammars.leave(sequence)
        if self._guessing is not None:
            self._guessing.forget(sequence)
        del self._sequences[sequence.request.id]
        self._nothing_to_do = False

    def _finish_reason(self, sequence: Sequence) -> str | None:
        return finish_reason(sequence, self._options.eos_token_ids, self._options.max_context)

    def _check_request(self, request: Request) -> None:
        prompt, limit = len(request.prompt), self._options.max_context
        if request.id in self._sequences:
            raise InvalidRequest(f"A request with the id {request.id} is running already; choose another id.", "id")
        if prompt == 0:
            raise InvalidRequest("The prompt is empty; send at least one token.", "prompt")
        if prompt + min(request.sampling.max_tokens, 1) > limit:
            raise ContextTooLong(
                f"The prompt has {prompt} tokens and the context holds {limit}, answer included; shorten the prompt.",
                "prompt",
            )
        request.sampling.validate()
        self._check_tokens("prompt", (*request.prompt, *request.emitted))
        self._check_tokens("logit_bias", tuple(request.sampling.logit_bias))
        # The last token is only emitted, never computed.
        longest = max(prompt, min(prompt + request.sampling.max_tokens, limit) - 1)
        most = min(self._pages.num_pages, self._cache.step_pages)
        if self._pages.pages_for(longest) > most:
            capacity = most * self._pages.page_size
            raise ContextTooLong(
                f"The request may grow to {longest + 1} tokens and this pool can keep {capacity + 1} of one request; "
                "lower max_tokens or shorten the prompt.",
                "max_tokens",
            )

    def _check_tokens(self, name: str, tokens: tuple[int, ...]) -> None:
        size = self._stage.vocab_size
        if tokens and (min(tokens) < 0 or max(tokens) >= size):
            raise InvalidRequest(f"{name} holds a token id outside [0, {size}); use the model's own tokenizer.", name)
