"""Which request runs on which pipeline, and what its client already has. Pure: no clock, no socket.

Any number of pipelines may be up; `routing` says where a request goes, and which of them seems to have stalled.

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
    RouteLeft,
    RouteUp,
    Started,
    Stopping,
    SubmitTo,
    Suspect,
    Tick,
)
from muster.client.live import Live
from muster.client.open_route import OpenRoute, remaining
from muster.client.routing import Routing
from muster.errors import MusterError, PoolUnavailable
from muster.spec.answer import Answers
from muster.spec.capacity import Capacity
from muster.spec.request import Request
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
    stall_s: float = 0.25
    """Streams whose pipeline says nothing for this long, and for much longer than it was ever silent lately, go on
    elsewhere where another is up."""
    failures: int = 5
    """Resubmissions without a new token in between, before a request is given up."""


EVEN_OUT_S = 0.5
MAX_MOVED = 64
"""Requests that are looked at, at once, whether another pipeline would answer them sooner."""


@dataclass(slots=True)
class ClientState:
    patience: Patience = field(default_factory=Patience)
    vocab_size: int = 2**31
    live: dict[str, Live] = field(default_factory=dict)
    resubmissions: int = 0
    unavailable_reason: str = ""
    stopping: bool = False
    story: Story = field(default_factory=Story)
    failovers: int = 0
    """Streams that went on elsewhere because their pipeline had stalled or was lost."""

    answers: Answers = field(default_factory=Answers)

    _routing: Routing = field(init=False)
    _evened_s: float = 0.0

    def __post_init__(self) -> None:
        self._routing = Routing(self.patience.stall_s)

    @property
    def epoch(self) -> int | None:
        """Of the newest pipeline that is up."""
        return self._routing.newest

    @property
    def streams(self) -> dict[int, int]:
        """Requests at work, by the epoch of their pipeline."""
        return {route.epoch: route.streams for route in self._routing.routes.values()}

    @property
    def measured(self) -> dict[int, dict[str, float]]:
        """What was seen of each pipeline that is up, by its epoch; 0 where nothing was yet."""
        return {
            route.epoch: {
                "requests": route.streams,
                "tokens_per_s": round(route.last_rate if route.streams else 0.0, 3),
                "most_tokens_per_s": round(route.rate, 3),
                "token_s": round(route.token_s, 6),
                "stalled": route.doubted_s is not None,
            }
            for route in self._routing.routes.values()
        }

    def handle(self, event: Event, now: float) -> list[Command]:
        """Take in `event`; what to do, in order. `now` is a steady clock, in seconds.

        Raises `ProtocolViolation` where tokens cannot be what was asked for: their pipeline is then of no use.
        """
        commands = self._decide(event, now)
        if isinstance(event, Tick) and not commands:
            return commands  # too many of them to be told
        self.story.remember(now, _without_prompt(event), [_without_prompt(command) for command in commands])
        # With every token: a command that has its cause already is not made anew.
        return [command if command.cause is event else replace(command, cause=event) for command in commands]

    def _decide(self, event: Event, now: float) -> list[Command]:
        match event:
            case Started(request):
                return self._start(request, now)
            case Cancelled(request_id):
                return self._cancel(request_id, now)
            case RouteUp(epoch, capacity):
                return self._route_up(epoch, capacity, now)
            case RouteLeft(epoch):
                return self._route_left(epoch, now)
            case RouteDown(epoch, reason):
                return self._route_down(epoch, now, reason)
            case Progressed():
                return self._progressed(event, now)
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
        self.live[request.id] = Live(request, None, now, list(request.emitted), request.scored)
        return self._place(request.id, now)

    def _stop(self) -> list[Command]:
        """Its pipelines end with it, so nothing is cancelled there."""
        self.stopping = True
        ended = list(self.live)
        for request_id in ended:
            self._forget(request_id)
        return [End(request_id, _stopping()) for request_id in ended]

    def _cancel(self, request_id: str, now: float) -> list[Command]:
        live = self._forget(request_id)
        if live is None or live.epoch is None:
            return []
        return [CancelAt(live.epoch, request_id), *self._after(live.is_suspect, now)]

    def _route_up(self, epoch: int, capacity: Capacity, now: float) -> list[Command]:
        """It takes those who wait for a pipeline, and some of those who wait at others."""
        self._routing.open(epoch, capacity, now)
        waiting = [request_id for request_id, live in self.live.items() if live.epoch is None and not live.is_suspect]
        commands = [command for request_id in waiting for command in self._place(request_id, now)]
        return commands + self._even_out(now) + self._next_suspect(now)

    def _route_left(self, epoch: int, now: float) -> list[Command]:
        """What its requests have emitted goes with them."""
        moving = [request_id for request_id, live in self.live.items() if live.epoch == epoch]
        commands = [command for request_id in moving for command in self._take_back(request_id)]
        self._routing.close(epoch)
        for request_id in moving:
            if not self.live[request_id].is_suspect:
                commands += self._place(request_id, now)
        return commands + self._next_suspect(now)

    def _route_down(self, epoch: int, now: float, reason: str) -> list[Command]:
        """Its requests go on elsewhere, or wait for the next."""
        self.unavailable_reason = reason
        commands: list[Command] = []
        moving = [request_id for request_id, live in self.live.items() if live.epoch == epoch]
        for request_id in moving:
            commands += self._lost(request_id, now, reason)
        self._routing.close(epoch)
        for request_id in moving:
            live = self.live.get(request_id)
            if live is not None and not live.is_suspect:
                placed = self._place(request_id, now)
                self.failovers += len(placed)
                commands += placed
        return commands + self._next_suspect(now)

    def _progressed(self, event: Progressed, now: float) -> list[Command]:
        epoch, progress = event.epoch, event.progress
        live, route = self.live.get(progress.request_id), self._routing.routes.get(epoch)
        if route is not None and route.doubted_s is not None and progress.tokens:
            route.heard(now)  # it is alive, though its streams have moved on
        if live is None or live.epoch != epoch or route is None:
            return []
        have, scored = len(live.emitted), live.scored
        check_progress(live.asked, scored, progress, self.vocab_size)
        scores = progress.scores.behind(scored + 1) if progress.scores is not None else None
        if progress.index > have or (
            scores is not None and scores.first > scored + 1
        ):  # a hole: tokens were lost on the way, so this pipeline's stream is of no use
            return self._again(progress.request_id, now, "tokens were lost between the pipeline and the head")
        fresh = progress.tokens[have - progress.index :]
        new_scores = scores.count if scores is not None else 0
        if not fresh and not new_scores and progress.finish is None:
            return []
        was_suspect, live.failures = live.is_suspect, 0
        live.emitted.extend([sampled.token for sampled in fresh])
        live.scored += new_scores
        live.got(route, len(fresh), now)
        if progress.finish is not None:
            self.answers.add(live.asked, tuple(live.emitted))
            self._forget(progress.request_id)
        if progress.index != have or progress.scores is not None:  # some of it is known already, perhaps
            progress = replace(progress, index=have, tokens=fresh, scores=scores if new_scores else None)
        return [Deliver(progress, cause=event), *self._after(was_suspect, now)]

    def _failed(self, epoch: int, request_id: str, error: MusterError, retry: bool, now: float) -> list[Command]:
        live = self.live.get(request_id)
        if live is None or live.epoch != epoch:
            return []
        if retry:
            return self._again(request_id, now, str(error))
        self._forget(request_id)
        return [End(request_id, error), *self._after(live.is_suspect, now)]

    def _tick(self, now: float) -> list[Command]:
        commands: list[Command] = []
        for request_id, live in list(self.live.items()):
            if live.epoch is None and now - live.waiting_since > self._patience_with(live):
                self._forget(request_id)
                commands.append(End(request_id, self._unavailable()))
        for route in self._routing.stalled(now):
            commands += self._move_on(route, now)
        if now - self._evened_s >= EVEN_OUT_S:
            commands += self._even_out(now)
        for route in self._routing.routes.values():
            due = route.streams > 0 or route.doubted_s is not None
            if due and now - route.heard_s > self.patience.silence_s:
                route.heard_s = now
                commands.append(Suspect(route.epoch))
        return commands

    def check(self) -> None:
        """Raise AssertionError where the books do not balance."""
        with self.story.told():
            for request_id, live in self.live.items():
                assert live.asked.id == request_id
                assert live.failures <= self.patience.failures
                assert live.scored <= live.asked.num_scores
                assert len(live.emitted) < max(1, live.asked.sampling.max_tokens)
            at_work = [live for live in self.live.values() if live.is_suspect and live.epoch is not None]
            assert len(at_work) <= 1, "two suspects run at once"
            waiting = [live for live in self.live.values() if live.epoch is None]
            up = self._routing.routes
            assert not up or all(live.is_suspect for live in waiting), "one waits beside a pipeline"
            assert not up or not waiting or at_work, "suspects wait for nobody"
            for route in up.values():
                mine = [live for live in self.live.values() if live.epoch == route.epoch]
                assert route.streams == len(mine), "streams are miscounted"
                assert route.begun == sum(live.begun for live in mine), "streams that began are miscounted"
                assert abs(sum(route.owed.values()) - sum(live.owed for live in mine)) < 1e-3, "tokens are miscounted"
            assert all(live.epoch in up for live in self.live.values() if live.epoch is not None), "one is nowhere"

    def _patience_with(self, live: Live) -> float:
        patience = self.patience
        has_run = live.failures > 0 or live.emitted
        return max(patience.new_request_s, patience.no_pipeline_s) if has_run else patience.new_request_s

    def _place(self, request_id: str, now: float) -> list[Command]:
        live = self.live[request_id]
        route = self._routing.choose(live.request)
        return [] if route is None else self._submit(live, route, now)

    def _submit(self, live: Live, route: OpenRoute, now: float) -> list[Command]:
        request = live.request
        digests = self._routing.digests(request, route)
        live.epoch, live.owed, live.begun = route.epoch, route.owed_by(request, digests), False
        live.prompt = live.owed - remaining(live.asked, len(live.emitted))
        route.take(request, live.owed, live.prompt, digests, now)
        return [SubmitTo(route.epoch, request)]

    def _take_back(self, request_id: str) -> list[Command]:
        """From a pipeline that goes on without it. It waits, and nobody is to blame."""
        live = self.live[request_id]
        if live.epoch is None:
            return []
        command = CancelAt(live.epoch, request_id)
        self._leave(live)
        self.resubmissions += 1
        return [command]

    def _leave(self, live: Live) -> None:
        route = self._routing.routes.get(live.epoch) if live.epoch is not None else None
        if route is not None:
            route.leave(live.asked, live.owed, live.prompt, live.begun)
        live.epoch, live.owed, live.prompt, live.begun = None, 0.0, 0.0, False

    def _forget(self, request_id: str) -> Live | None:
        """It is over. What is returned says where it was."""
        live = self.live.pop(request_id, None)
        if live is None:
            return None
        was = replace(live)
        self._leave(live)
        return was

    def _move_on(self, route: OpenRoute, now: float) -> list[Command]:
        """Its streams go on elsewhere; should it be heard again, nothing is lost but their caches."""
        commands: list[Command] = []
        for request_id in [request_id for request_id, live in self.live.items() if live.epoch == route.epoch]:
            if not self.live[request_id].is_suspect:
                commands += [*self._take_back(request_id), *self._place(request_id, now)]
                self.failovers += 1
        return commands

    def _even_out(self, now: float) -> list[Command]:
        """Requests that wait behind others move to where they are answered clearly sooner, the last ones first."""
        self._evened_s = now
        routes, commands = self._routing.routes, list[Command]()
        if len(routes) < 2:
            return commands
        waiting = [live for live in self.live.values() if live.epoch is not None and not live.begun]
        for live in reversed(waiting[-MAX_MOVED:]):
            at = routes[live.epoch or 0]
            other = self._routing.sooner(live.request, at, live.owed)
            if other is not None and not live.is_suspect:
                commands += self._take_back(live.asked.id)
                commands += self._submit(live, other, now)
        return commands

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
        self._leave(live)
        live.waiting_since = now
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
