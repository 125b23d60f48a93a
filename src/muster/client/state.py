"""Which request runs on which pipeline, and what its client already has. Pure: no clock, no socket.

A request's whole recoverable state is its prompt, its emitted tokens and its sampling (with the seed). Whatever
happens to a pipeline, the answer is the same: submit prompt + emitted again, where a pipeline is whole. Tokens carry
their index, so what arrives twice is dropped and what is out of order is refused.
"""

from dataclasses import dataclass, field, replace

from muster.client.accept import check_progress
from muster.errors import MusterError, PoolUnavailable
from muster.spec.request import Finish, Progress, Request


@dataclass(frozen=True, slots=True)
class SubmitTo:
    """Command: hand the request to the pipeline of `epoch`."""

    epoch: int
    request: Request


@dataclass(frozen=True, slots=True)
class CancelAt:
    """Command: tell the pipeline of `epoch` to forget the request."""

    epoch: int
    request_id: str


@dataclass(frozen=True, slots=True)
class Deliver:
    """Command: these tokens are new to the client."""

    progress: Progress


@dataclass(frozen=True, slots=True)
class End:
    """Command: the request ends with this error."""

    request_id: str
    error: MusterError


@dataclass(frozen=True, slots=True)
class Suspect:
    """Command: the pipeline of `epoch` accepted work and has been silent too long; have the broker look."""

    epoch: int


Command = SubmitTo | CancelAt | Deliver | End | Suspect


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a request waits before somebody acts."""

    no_pipeline_s: float = 120.0
    """With no pipeline at all, a request ends with 503 after this long."""
    silence_s: float = 30.0
    """Submitted, and no token from the whole pipeline for this long: suspect it."""
    failures: int = 5
    """Resubmissions without a new token in between, before a request is given up."""


@dataclass(slots=True)
class _Live:
    request: Request
    """`request.emitted` grows as tokens are delivered."""
    epoch: int | None
    waiting_since: float
    failures: int = 0


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

    def start(self, request: Request, now: float) -> list[Command]:
        if request.id in self.live:
            raise ValueError(f"request {request.id} is already live")
        self.live[request.id] = _Live(request, None, now)
        return self._place(request.id, now)

    def cancel(self, request_id: str) -> list[Command]:
        live = self.live.pop(request_id, None)
        return [CancelAt(live.epoch, request_id)] if live and live.epoch is not None else []

    def route_up(self, epoch: int, now: float) -> list[Command]:
        """A pipeline is ready. Requests on an older one move over: what they have emitted goes with them."""
        commands: list[Command] = []
        self.epoch, self.heard_at = epoch, now
        for request_id, live in self.live.items():
            if live.epoch == epoch:
                continue
            if live.epoch is not None:
                commands.append(CancelAt(live.epoch, request_id))
                self.resubmissions += 1
            live.epoch = None
            commands += self._place(request_id, now)
        return commands

    def route_down(self, epoch: int, now: float, reason: str = "") -> list[Command]:
        """The pipeline of `epoch` is gone; its requests wait for the next."""
        if self.epoch == epoch:
            self.epoch, self.unavailable_reason = None, reason
        for live in self.live.values():
            if live.epoch == epoch:
                live.epoch, live.waiting_since = None, now
                self.resubmissions += 1
        return []

    def progressed(self, epoch: int, progress: Progress, now: float) -> list[Command]:
        """Raises `ProtocolViolation` where this cannot be what was asked for: the pipeline is then of no use."""
        live = self.live.get(progress.request_id)
        if live is None or live.epoch != epoch:
            return []
        check_progress(live.request, progress, self.vocab_size)
        have = len(live.request.emitted)
        if progress.index > have:  # a hole: tokens were lost on the way, so this pipeline's stream is of no use
            return self._again(progress.request_id, now, "tokens were lost between the pipeline and the head")
        fresh = progress.tokens[have - progress.index :]
        if not fresh and progress.finish is None:
            return []
        self.heard_at, live.failures = now, 0
        emitted = live.request.emitted + tuple(sampled.token for sampled in fresh)
        live.request = replace(live.request, emitted=emitted)
        if progress.finish is not None:
            del self.live[progress.request_id]
        return [Deliver(replace(progress, index=have, tokens=fresh))]

    def failed(self, epoch: int, request_id: str, error: MusterError, retry: bool, now: float) -> list[Command]:
        """The pipeline could not go on with the request."""
        live = self.live.get(request_id)
        if live is None or live.epoch != epoch:
            return []
        if retry:
            return self._again(request_id, now, str(error))
        del self.live[request_id]
        return [End(request_id, error)]

    def tick(self, now: float) -> list[Command]:
        commands: list[Command] = []
        for request_id, live in list(self.live.items()):
            if live.epoch is None and now - live.waiting_since > self.patience.no_pipeline_s:
                del self.live[request_id]
                commands.append(End(request_id, self._unavailable()))
        working = any(live.epoch is not None and live.epoch == self.epoch for live in self.live.values())
        if self.epoch is not None and working and now - self.heard_at > self.patience.silence_s:
            self.heard_at = now
            commands.append(Suspect(self.epoch))
        return commands

    def check(self) -> None:
        """Raise AssertionError where the books do not balance."""
        for request_id, live in self.live.items():
            assert live.request.id == request_id
            assert live.failures <= self.patience.failures
            assert len(live.request.emitted) < live.request.sampling.max_tokens

    def _place(self, request_id: str, now: float) -> list[Command]:
        live = self.live[request_id]
        if self.epoch is None:
            return []
        if not any(other.epoch == self.epoch for other in self.live.values()):
            self.heard_at = now  # the pipeline was idle: its silence so far means nothing
        live.epoch = self.epoch
        return [SubmitTo(self.epoch, live.request)]

    def _again(self, request_id: str, now: float, reason: str) -> list[Command]:
        live = self.live[request_id]
        old_epoch, live.epoch, live.waiting_since = live.epoch, None, now
        live.failures += 1
        self.resubmissions += 1
        cancel: list[Command] = [CancelAt(old_epoch, request_id)] if old_epoch is not None else []
        if live.failures > self.patience.failures:
            del self.live[request_id]
            error = PoolUnavailable(f"The pool failed this request {live.failures} times ({reason}); try again later.")
            return [*cancel, End(request_id, error)]
        return cancel + self._place(request_id, now)

    def _unavailable(self) -> PoolUnavailable:
        why = self.unavailable_reason or "no pipeline is ready"
        return PoolUnavailable(
            f"No machines can serve the model now ({why}); see `muster status`, or join another machine."
        )


def cancelled(request: Request) -> Progress:
    """The last word to a client whose request was cancelled."""
    return Progress(request.id, len(request.emitted), (), Finish.CANCELLED)
