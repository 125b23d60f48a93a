"""Which request runs on which pipeline, and what its client already has. Pure: no clock, no socket.

A request's whole recoverable state is its prompt, its emitted tokens and its sampling (with the seed). Whatever
happens to a pipeline, the answer is the same: submit prompt + emitted again, where a pipeline is whole. Tokens carry
their index, so what arrives twice is dropped and what is out of order is refused.

A request may itself be what breaks pipelines. One that lost two in a row without a token in between is a suspect, and
suspects are submitted one at a time: the innocent get their token and go on, the guilty one is soon given up.
"""

from dataclasses import dataclass, field, replace

from muster.client.accept import check_progress
from muster.client.events import (
    CancelAt,
    Cancelled,
    Command,
    Deliver,
    End,
    Event,
    Progressed,
    RequestFailed,
    RouteDown,
    RouteUp,
    Started,
    Stopping,
    SubmitTo,
    Suspect,
    Tick,
)
from muster.errors import MusterError, PoolUnavailable
from muster.spec.request import Progress, Request
from muster.spec.story import Story


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a request waits before somebody acts."""

    new_request_s: float = 10.0
    """With no pipeline at all, a request that never ran ends with 503 after this long: its client can ask elsewhere."""
    no_pipeline_s: float = 120.0
    """The same for one that lost its pipeline: what it has said would have to be said again."""
    silence_s: float = 30.0
    """Submitted, and no token from the whole pipeline for this long: suspect it."""
    failures: int = 5
    """Resubmissions without a new token in between, before a request is given up."""


SUSPECT_AFTER = 2


@dataclass(slots=True)
class _Live:
    request: Request
    """`request.emitted` grows as tokens are delivered."""
    epoch: int | None
    waiting_since: float
    failures: int = 0
    """Times that it was lost since its last token."""

    @property
    def is_suspect(self) -> bool:
        return self.failures >= SUSPECT_AFTER


@dataclass(slots=True)
class ClientState:
    patience: Patience = field(default_factory=Patience)
    vocab_size: int = 2**31
    epoch: int | None = None
    """The pipeline that takes new requests, if one is up."""
    live: dict[str, _Live] = field(default_factory=dict)
    heard_at: float = 0.0
    resubmissions: int = 0
    unavailable_reason: str = ""
    stopping: bool = False
    story: Story = field(default_factory=Story)

    def handle(self, event: Event, now: float) -> list[Command]:
        """Take in `event`; what to do, in order. `now` is a steady clock, in seconds.

        Raises `ProtocolViolation` where tokens cannot be what was asked for: their pipeline is then of no use.
        """
        commands = self._decide(event, now)
        if isinstance(event, Tick) and not commands:
            return commands  # too many of them to be told
        self.story.remember(now, _without_prompt(event), [_without_prompt(command) for command in commands])
        return [replace(command, cause=event) for command in commands]

    def _decide(self, event: Event, now: float) -> list[Command]:
        match event:
            case Started(request):
                return self._start(request, now)
            case Cancelled(request_id):
                return self._cancel(request_id, now)
            case RouteUp(epoch):
                return self._route_up(epoch, now)
            case RouteDown(epoch, reason):
                return self._route_down(epoch, now, reason)
            case Progressed(epoch, progress):
                return self._progressed(epoch, progress, now)
            case RequestFailed(epoch, request_id, error, retry):
                return self._failed(epoch, request_id, error, retry, now)
            case Stopping():
                return self._stop()
            case Tick():
                return self._tick(now)

    def _start(self, request: Request, now: float) -> list[Command]:
        if request.id in self.live:
            raise ValueError(f"request {request.id} is already live")
        if self.stopping:
            return [End(request.id, _stopping())]
        self.live[request.id] = _Live(request, None, now)
        return self._place(request.id, now)

    def _stop(self) -> list[Command]:
        """Its pipelines end with it, so nothing is cancelled there."""
        self.stopping = True
        ended = list(self.live)
        self.live.clear()
        return [End(request_id, _stopping()) for request_id in ended]

    def _cancel(self, request_id: str, now: float) -> list[Command]:
        live = self.live.pop(request_id, None)
        if live is None or live.epoch is None:
            return []
        return [CancelAt(live.epoch, request_id), *self._after(live.is_suspect, now)]

    def _route_up(self, epoch: int, now: float) -> list[Command]:
        """Requests on an older pipeline move over: what they have emitted goes with them."""
        commands: list[Command] = []
        self.epoch, self.heard_at = epoch, now
        for request_id, live in self.live.items():
            if live.epoch == epoch:
                continue
            if live.epoch is not None:
                commands.append(CancelAt(live.epoch, request_id))
                self.resubmissions += 1
            live.epoch = None
            if not live.is_suspect:
                commands += self._place(request_id, now)
        return commands + self._next_suspect(now)

    def _route_down(self, epoch: int, now: float, reason: str) -> list[Command]:
        """Its requests wait for the next."""
        if self.epoch == epoch:
            self.epoch, self.unavailable_reason = None, reason
        commands: list[Command] = []
        for request_id, live in list(self.live.items()):
            if live.epoch == epoch:
                commands += self._lost(request_id, now, reason)
        return commands

    def _progressed(self, epoch: int, progress: Progress, now: float) -> list[Command]:
        live = self.live.get(progress.request_id)
        if live is None or live.epoch != epoch:
            return []
        check_progress(live.request, progress, self.vocab_size)
        have, scored = len(live.request.emitted), live.request.scored
        scores = progress.scores.behind(scored + 1) if progress.scores is not None else None
        if progress.index > have or (
            scores is not None and scores.first > scored + 1
        ):  # a hole: tokens were lost on the way, so this pipeline's stream is of no use
            return self._again(progress.request_id, now, "tokens were lost between the pipeline and the head")
        fresh = progress.tokens[have - progress.index :]
        new_scores = scores.count if scores is not None else 0
        if not fresh and not new_scores and progress.finish is None:
            return []
        was_suspect, live.failures, self.heard_at = live.is_suspect, 0, now
        emitted = live.request.emitted + tuple(sampled.token for sampled in fresh)
        live.request = replace(live.request, emitted=emitted, scored=scored + new_scores)
        if progress.finish is not None:
            del self.live[progress.request_id]
        known = scores if new_scores else None
        return [Deliver(replace(progress, index=have, tokens=fresh, scores=known)), *self._after(was_suspect, now)]

    def _failed(self, epoch: int, request_id: str, error: MusterError, retry: bool, now: float) -> list[Command]:
        live = self.live.get(request_id)
        if live is None or live.epoch != epoch:
            return []
        if retry:
            return self._again(request_id, now, str(error))
        del self.live[request_id]
        return [End(request_id, error), *self._after(live.is_suspect, now)]

    def _tick(self, now: float) -> list[Command]:
        commands: list[Command] = []
        for request_id, live in list(self.live.items()):
            if live.epoch is None and now - live.waiting_since > self._patience_with(live):
                del self.live[request_id]
                commands.append(End(request_id, self._unavailable()))
        working = any(live.epoch is not None and live.epoch == self.epoch for live in self.live.values())
        if self.epoch is not None and working and now - self.heard_at > self.patience.silence_s:
            self.heard_at = now
            commands.append(Suspect(self.epoch))
        return commands

    def check(self) -> None:
        """Raise AssertionError where the books do not balance."""
        with self.story.told():
            for request_id, live in self.live.items():
                assert live.request.id == request_id
                assert live.failures <= self.patience.failures
                assert live.request.scored <= live.request.num_scores
                assert len(live.request.emitted) < max(1, live.request.sampling.max_tokens)
            at_work = [live for live in self.live.values() if live.is_suspect and live.epoch is not None]
            assert len(at_work) <= 1, "two suspects run at once"
            waiting = [live for live in self.live.values() if live.epoch is None]
            assert self.epoch is None or all(live.is_suspect for live in waiting), "one waits beside a pipeline"
            assert self.epoch is None or not waiting or at_work, "suspects wait for nobody"

    def _patience_with(self, live: _Live) -> float:
        patience = self.patience
        has_run = live.failures > 0 or live.request.emitted
        return max(patience.new_request_s, patience.no_pipeline_s) if has_run else patience.new_request_s

    def _place(self, request_id: str, now: float) -> list[Command]:
        live = self.live[request_id]
        if self.epoch is None:
            return []
        if not any(other.epoch == self.epoch for other in self.live.values()):
            self.heard_at = now  # the pipeline was idle: its silence so far means nothing
        live.epoch = self.epoch
        return [SubmitTo(self.epoch, live.request)]

    def _after(self, suspect: bool, now: float) -> list[Command]:
        """A request has moved on or ended: if it was the suspect at work, the next one may try."""
        return self._next_suspect(now) if suspect else []

    def _next_suspect(self, now: float) -> list[Command]:
        """Submit the suspect with the fewest failures, unless one is at work: it is the likeliest to be innocent."""
        suspects = [(live.failures, request_id) for request_id, live in self.live.items() if live.is_suspect]
        if not suspects or any(self.live[request_id].epoch is not None for _, request_id in suspects):
            return []
        return self._place(min(suspects, key=lambda suspect: suspect[0])[1], now)

    def _again(self, request_id: str, now: float, reason: str) -> list[Command]:
        """The pipeline is whole, but this request must start over on it."""
        live = self.live[request_id]
        cancel: list[Command] = [CancelAt(live.epoch, request_id)] if live.epoch is not None else []
        commands = cancel + self._lost(request_id, now, reason)
        if request_id in self.live and not live.is_suspect:
            return commands + self._place(request_id, now)
        return commands + self._next_suspect(now)

    def _lost(self, request_id: str, now: float, reason: str) -> list[Command]:
        """What the pipeline had of the request is gone. It waits, or is given up."""
        live = self.live[request_id]
        live.epoch, live.waiting_since = None, now
        live.failures += 1
        self.resubmissions += 1
        if live.failures <= self.patience.failures:
            return []
        del self.live[request_id]
        error = PoolUnavailable(f"The pool failed this request {live.failures} times ({reason}); try again later.")
        return [End(request_id, error)]

    def _unavailable(self) -> PoolUnavailable:
        why = self.unavailable_reason or "no pipeline is ready"
        return PoolUnavailable(
            f"No machines can serve the model now ({why}); see `muster status`, or join another machine."
        )


def _stopping() -> PoolUnavailable:
    return PoolUnavailable("This head is being stopped; send the request again when it is back.")


def _without_prompt(record: Event | Command) -> object:
    """What the story keeps: a request may be large, and private, and is often over long before its story is."""
    if not isinstance(record, Started | SubmitTo):
        return record
    where = f"epoch={record.epoch}, " if isinstance(record, SubmitTo) else ""
    request = record.request
    return f"{type(record).__name__}({where}{request.id}: {len(request.prompt)} + {len(request.emitted)} tokens)"
