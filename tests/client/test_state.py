"""A request survives whatever its pipelines do: no token lost, none repeated."""

from dataclasses import dataclass, field

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from muster.client.events import (
    CancelAt,
    Cancelled,
    Command,
    Deliver,
    End,
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
from muster.client.state import ClientState, Patience
from muster.errors import InvalidRequest, PoolUnavailable, ProtocolViolation
from muster.spec.request import Finish, Progress, Request, Sampled, TokenLogprob
from muster.spec.sampling import Sampling
from tests.examples import examples


def a_request(name: str = "r", max_tokens: int = 8) -> Request:
    return Request(name, (1, 2, 3), Sampling(max_tokens=max_tokens))


def tokens(*ids: int) -> tuple[Sampled, ...]:
    return tuple(Sampled(token) for token in ids)


def test_a_request_waits_for_a_pipeline_and_is_then_submitted() -> None:
    state = ClientState()
    assert state.handle(Started(a_request()), 0.0) == []
    assert state.handle(RouteUp(7), 1.0) == [SubmitTo(7, a_request())]


def test_where_the_head_stops_what_runs_waits_or_comes_is_told_so() -> None:
    state = ClientState()
    state.handle(Started(a_request("waits")), 0.0)
    state.handle(RouteUp(1), 0.0)
    state.handle(Started(a_request("runs")), 0.0)
    commands = [*state.handle(Stopping(), 1.0), *state.handle(Started(a_request("comes")), 1.1)]
    assert [command.request_id for command in commands if isinstance(command, End)] == ["waits", "runs", "comes"]
    assert all("being stopped" in str(command.error) for command in commands if isinstance(command, End))
    assert state.live == {}
    assert state.handle(RouteUp(2), 1.2) == []


def test_what_was_emitted_goes_along_to_the_repaired_pipeline() -> None:
    state = ClientState()
    state.handle(RouteUp(1), 0.0)
    state.handle(Started(a_request()), 0.0)
    state.handle(Progressed(1, Progress("r", 0, tokens(10, 11))), 0.1)
    state.handle(RouteDown(1), 0.2)
    (command,) = state.handle(RouteUp(2), 0.3)
    assert isinstance(command, SubmitTo)
    assert command.request.emitted == (10, 11)


def test_tokens_that_arrive_twice_are_delivered_once() -> None:
    state = ClientState()
    state.handle(RouteUp(1), 0.0)
    state.handle(Started(a_request()), 0.0)
    state.handle(Progressed(1, Progress("r", 0, tokens(10, 11))), 0.1)
    (command,) = state.handle(Progressed(1, Progress("r", 1, tokens(11, 12))), 0.2)
    assert command == Deliver(Progress("r", 2, tokens(12)))


def test_a_hole_in_the_tokens_means_starting_again_from_what_the_client_has() -> None:
    state = ClientState()
    state.handle(RouteUp(1), 0.0)
    state.handle(Started(a_request()), 0.0)
    assert state.handle(Progressed(1, Progress("r", 3, tokens(13))), 0.1) == [
        CancelAt(1, "r"),
        SubmitTo(1, a_request()),
    ]


def test_tokens_of_an_abandoned_pipeline_are_ignored() -> None:
    state = ClientState()
    state.handle(RouteUp(1), 0.0)
    state.handle(Started(a_request()), 0.0)
    state.handle(RouteUp(2), 0.1)
    state.handle(RouteLeft(1), 0.1)
    assert state.handle(Progressed(1, Progress("r", 0, tokens(10))), 0.2) == []


def test_a_request_that_cannot_be_served_ends_with_the_error_of_the_pipeline() -> None:
    state = ClientState()
    state.handle(RouteUp(1), 0.0)
    state.handle(Started(a_request()), 0.0)
    error = InvalidRequest("no")
    assert state.handle(RequestFailed(1, "r", error, retry=False), 0.1) == [End("r", error)]
    assert state.live == {}


def test_a_request_is_given_up_after_repeated_failures_without_a_token() -> None:
    state = ClientState(Patience(failures=2))
    state.handle(RouteUp(1), 0.0)
    state.handle(Started(a_request()), 0.0)
    for _ in range(2):
        assert any(
            isinstance(c, SubmitTo) for c in state.handle(RequestFailed(1, "r", InvalidRequest("x"), retry=True), 0.0)
        )
    last = state.handle(RequestFailed(1, "r", InvalidRequest("x"), retry=True), 0.0)[-1]
    assert isinstance(last, End)
    assert isinstance(last.error, PoolUnavailable)


def test_without_any_pipeline_a_request_ends_in_time_and_says_why() -> None:
    state = ClientState(Patience(no_pipeline_s=10))
    state.handle(Started(a_request()), 0.0)
    assert state.handle(Tick(), 9.9) == []
    (command,) = state.handle(Tick(), 10.1)
    assert isinstance(command, End)
    assert "muster status" in str(command.error)


def test_a_new_request_waits_less_for_a_pipeline_than_one_that_lost_its_own() -> None:
    state = ClientState(Patience(new_request_s=5, no_pipeline_s=100))
    state.handle(RouteUp(1), 0.0)
    state.handle(Started(a_request("lost")), 0.0)
    state.handle(RouteDown(1), 1.0)
    state.handle(Started(a_request("new")), 1.0)
    assert [end.request_id for end in state.handle(Tick(), 6.5) if isinstance(end, End)] == ["new"]
    assert state.handle(Tick(), 100.5) == []
    assert [end.request_id for end in state.handle(Tick(), 101.5) if isinstance(end, End)] == ["lost"]
    patient = ClientState(Patience(new_request_s=200, no_pipeline_s=100))
    patient.handle(Started(a_request()), 0.0)
    assert patient.handle(Tick(), 199.0) == []
    assert len(patient.handle(Tick(), 201.0)) == 1


def test_a_silent_pipeline_is_suspected_once_per_silence() -> None:
    state = ClientState(Patience(silence_s=5))
    state.handle(RouteUp(1), 0.0)
    assert state.handle(Tick(), 100.0) == []  # idle: nothing is owed
    state.handle(Started(a_request()), 100.0)
    assert state.handle(Tick(), 104.0) == []
    assert state.handle(Tick(), 106.0) == [Suspect(1)]
    assert state.handle(Tick(), 106.5) == []


def test_progress_without_a_token_does_not_pass_for_a_sign_of_life() -> None:
    state = ClientState(Patience(silence_s=5))
    state.handle(RouteUp(1), 0.0)
    state.handle(Started(a_request()), 0.0)
    state.handle(Progressed(1, Progress("r", 0, ())), 4.0)
    assert state.handle(Tick(), 6.0) == [Suspect(1)]


def test_a_request_that_breaks_every_pipeline_is_given_up_and_takes_nobody_with_it() -> None:
    state = ClientState()
    names = ["a", "poison", "b", "c"]
    for name in names:
        state.handle(Started(a_request(name, 1)), 0.0)
    ended: dict[str, str] = {}
    epoch = 0
    while state.live:
        epoch += 1
        assert epoch < 20, "it goes on for ever"
        commands = state.handle(RouteUp(epoch), float(epoch))
        while commands and state.epoch is not None:
            submitted = [command.request.id for command in commands if isinstance(command, SubmitTo)]
            commands = []
            if "poison" in submitted:  # before anybody else has a token
                commands = state.handle(RouteDown(epoch, "a stage broke"), float(epoch))
            for name in submitted if state.epoch is not None else []:
                commands += state.handle(Progressed(epoch, Progress(name, 0, tokens(7), Finish.LENGTH)), float(epoch))
                ended[name] = "answered"
            state.check()
        ended |= {command.request_id: str(command.error) for command in commands if isinstance(command, End)}
    assert {name: ended[name] for name in "abc"} == dict.fromkeys("abc", "answered")
    assert ended["poison"].startswith("The pool failed this request 6 times (a stage broke)")


NAN = float("nan")


@pytest.mark.parametrize(
    "wrong",
    [
        Progress("r", -1, tokens(5, 6)),
        Progress("r", 0, tokens(*range(9))),
        Progress("r", 0, tokens(*range(8))),
        Progress("r", 2**62, tokens(7)),
        Progress("r", 0, tokens(100)),
        Progress("r", 0, tokens(-1)),
        Progress("r", 0, tokens(2**63)),
        Progress("r", 0, tokens(7), "cancelled"),
        Progress("r", 0, tokens(7), "<script>"),
        Progress("r", 0, (Sampled(5),)),
        Progress("r", 0, (Sampled(5, NAN),)),
        Progress("r", 0, (Sampled(5, 1.0),)),
        Progress("r", 0, (Sampled(5, float("inf")),)),
        Progress("r", 0, (Sampled(5, -1.0, (TokenLogprob(1, -1.0),) * 3),)),
        Progress("r", 0, (Sampled(5, -1.0, (TokenLogprob(100, -1.0),)),)),
        Progress("r", 0, (Sampled(5, -1.0, (TokenLogprob(1, NAN),)),)),
    ],
)
def test_what_cannot_be_the_answer_is_a_violation_and_never_reaches_the_client(wrong: Progress) -> None:
    state = ClientState(vocab_size=100)
    state.handle(RouteUp(1), 0.0)
    scored = wrong.tokens == (Sampled(5),) or wrong.tokens[0].logprob is not None
    state.handle(Started(Request("r", (1, 2, 3), Sampling(max_tokens=8, logprobs=2 if scored else None))), 0.0)
    with pytest.raises(ProtocolViolation):
        state.handle(Progressed(1, wrong), 0.1)
    assert state.live["r"].request.emitted == ()
    state.check()


def test_scores_that_were_asked_for_may_say_that_a_token_was_impossible() -> None:
    state = ClientState(vocab_size=100)
    state.handle(RouteUp(1), 0.0)
    state.handle(Started(Request("r", (1, 2, 3), Sampling(max_tokens=8, logprobs=1))), 0.0)
    sampled = Sampled(5, float("-inf"), (TokenLogprob(1, 1e-7),))
    assert state.handle(Progressed(1, Progress("r", 0, (sampled,))), 0.1) == [Deliver(Progress("r", 0, (sampled,)))]


@dataclass
class _Pipeline:
    """Emits token 100 + position for every request, as any faultless pipeline would."""

    requests: dict[str, tuple[Request, int]] = field(default_factory=dict)


class AnyFate(RuleBasedStateMachine):
    """Pipelines come, go, repeat themselves and fail; every client still reads 100, 101, 102, … to the end."""

    def __init__(self) -> None:
        super().__init__()
        self.state = ClientState(Patience(failures=1000, new_request_s=1e9))
        self.now = 0.0
        self.epoch = 0
        self.names = 0
        self.pipelines: dict[int, _Pipeline] = {}
        self.read: dict[str, list[int]] = {}
        self.finished: set[str] = set()

    def obey(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case SubmitTo(epoch, request):
                    self.pipelines[epoch].requests[request.id] = (request, len(request.emitted))
                case CancelAt(epoch, request_id):
                    self.pipelines[epoch].requests.pop(request_id, None)
                case Deliver(progress):
                    assert progress.index == len(self.read[progress.request_id])
                    self.read[progress.request_id] += [sampled.token for sampled in progress.tokens]
                    if progress.finish:
                        self.finished.add(progress.request_id)
                case Suspect():
                    pass
                case _:
                    raise AssertionError(command)

    @rule(length=st.integers(1, 6))
    def start(self, length: int) -> None:
        self.names += 1
        name = f"r{self.names}"
        self.read[name] = []
        self.obey(self.state.handle(Started(a_request(name, length)), self.now))

    @rule()
    def route_up(self) -> None:
        self.epoch += 1
        self.pipelines[self.epoch] = _Pipeline()
        self.obey(self.state.handle(RouteUp(self.epoch), self.now))

    @precondition(lambda self: self.state.epoch is not None)
    @rule(data=st.data(), fate=st.sampled_from([RouteDown, RouteLeft]))
    def route_ends(self, data: st.DataObject, fate: type[RouteDown] | type[RouteLeft]) -> None:
        epoch = data.draw(st.sampled_from(sorted(self.state.streams)))
        self.obey(self.state.handle(fate(epoch), self.now))

    @rule(seconds=st.sampled_from([0.1, 0.1, 0.1, 0.3, 5.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.obey(self.state.handle(Tick(), self.now))

    @rule(data=st.data())
    def emit(self, data: st.DataObject) -> None:
        busy = [(e, r) for e, pipeline in self.pipelines.items() for r in pipeline.requests]
        if not busy:
            return
        epoch, request_id = data.draw(st.sampled_from(busy))
        request, at = self.pipelines[epoch].requests[request_id]
        start = max(0, at - data.draw(st.integers(0, 2)))  # may repeat what it said
        count = min(data.draw(st.integers(1, 3)), request.sampling.max_tokens - at)
        end = at + count
        finish = Finish.LENGTH if end == request.sampling.max_tokens else None
        if finish:
            del self.pipelines[epoch].requests[request_id]
        else:
            self.pipelines[epoch].requests[request_id] = (request, end)
        progress = Progress(request_id, start, tokens(*(100 + i for i in range(start, end))), finish)
        self.obey(self.state.handle(Progressed(epoch, progress), self.now))

    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        busy = [(e, r) for e, pipeline in self.pipelines.items() for r in pipeline.requests]
        if busy:
            epoch, request_id = data.draw(st.sampled_from(busy))
            self.obey(self.state.handle(RequestFailed(epoch, request_id, PoolUnavailable("x"), retry=True), self.now))

    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        if self.state.live:
            name = data.draw(st.sampled_from(sorted(self.state.live)))
            del self.read[name]
            self.obey(self.state.handle(Cancelled(name), self.now))

    @invariant()
    def every_client_reads_the_one_true_stream(self) -> None:
        self.state.check()
        for name, ids in self.read.items():
            assert ids == [100 + i for i in range(len(ids))]
            assert (name in self.finished) != (name in self.state.live)


TestAnyFate = AnyFate.TestCase
TestAnyFate.settings = examples(60, stateful_step_count=40)


def test_a_failed_check_tells_what_led_to_it_and_not_what_people_said() -> None:
    state = ClientState()
    state.handle(Started(Request("r", (424242,) * 3, Sampling(max_tokens=8))), 0.0)
    (submitted,) = state.handle(RouteUp(7), 1.0)
    assert submitted.cause == RouteUp(7)
    state.live["r"].failures = 99
    with pytest.raises(AssertionError, match=r"RouteUp\(epoch=7") as failed:
        state.check()
    assert "SubmitTo(epoch=7, r: 3 + 0 tokens)" in str(failed.value)
    assert "424242" not in str(failed.value)
    assert "424242" not in str(list(state.story.entries))
