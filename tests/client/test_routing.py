"""Several pipelines: where a request goes, when it moves, and what goes on elsewhere when one breaks or is silent."""

from collections import Counter

from muster.client.events import CancelAt, Progressed, RouteDown, RouteUp, Started, SubmitTo, Tick
from muster.client.state import ClientState
from muster.spec.capacity import Capacity
from muster.spec.request import Finish, Priority, Progress, Request, Sampled
from muster.spec.sampling import Sampling

FAST, SLOW = Capacity(400.0, 0.01, 512, 16), Capacity(100.0, 0.04, 512, 16)


def a_request(name: str, tokens: int = 32, prompt: int = 8, priority: Priority = Priority.INTERACTIVE) -> Request:
    return Request(name, tuple(range(prompt)), Sampling(max_tokens=tokens), priority=priority)


def two(fast: Capacity = FAST, slow: Capacity = SLOW) -> ClientState:
    state = ClientState()
    state.handle(RouteUp(1, fast), 0.0)
    state.handle(RouteUp(2, slow), 0.0)
    return state


def submitted(commands: list) -> list[int]:
    return [command.epoch for command in commands if isinstance(command, SubmitTo)]


def send(state: ClientState, request: Request, now: float = 0.0) -> int:
    (epoch,) = submitted(state.handle(Started(request), now))
    state.check()
    return epoch


def token(name: str, index: int, count: int = 1, finish: str | None = None) -> Progress:
    return Progress(name, index, tuple(Sampled(5) for _ in range(count)), finish)


def test_requests_are_dealt_out_as_fast_as_pipelines_are() -> None:
    state = two()
    dealt = Counter(send(state, a_request(f"r{n}", 100)) for n in range(100))
    assert 75 <= dealt[1] <= 85, "four times as fast, four times as many"


def test_a_request_goes_where_its_beginning_is_cached_unless_others_wait_there() -> None:
    state = two(FAST, FAST)
    first = send(state, a_request("first", 4, prompt=512))
    other = send(state, Request("else", (9,) * 512, Sampling(max_tokens=4)))
    assert other != first
    assert send(state, a_request("again", 4, prompt=512)) == first
    crowd = [send(state, a_request(f"r{n}", 4, prompt=512)) for n in range(40)]
    assert set(crowd) == {1, 2}, "what is cached is worth only so much"


def test_an_interactive_request_does_not_count_those_that_it_goes_before() -> None:
    state = two()
    for n in range(100):
        send(state, a_request(f"offline-{n}", 100, priority=Priority.OFFLINE))
    assert send(state, a_request("asked now", 100)) == 1
    assert state.streams[1] > state.streams[2]


def test_what_was_measured_counts_more_than_what_was_forecast() -> None:
    state = two(SLOW, FAST)
    for n in range(20):
        send(state, a_request(f"warm-{n}", 1000))
    on = {name: live.epoch for name, live in state.live.items()}
    for step in range(1, 80):
        for name, epoch in on.items():
            if epoch == 1 or step % 8 == 0:  # the one that was forecast to be slow says eight times as much
                at = len(state.live[name].request.emitted)
                state.handle(Progressed(epoch or 0, token(name, at)), step * 0.05)
    assert send(state, a_request("now", 100), 4.0) == 1


def test_streams_of_a_broken_pipeline_go_on_elsewhere_at_once_with_what_they_have() -> None:
    state = two(FAST, FAST)
    epochs = {name: send(state, a_request(name)) for name in "ab"}
    broken = epochs["a"]
    state.handle(Progressed(broken, token("a", 0, 3)), 0.1)
    (moved,) = state.handle(RouteDown(broken, "a machine left"), 0.2)
    assert isinstance(moved, SubmitTo)
    assert moved.epoch == 3 - broken
    assert moved.request.emitted == (5, 5, 5)
    assert state.live["a"].epoch == moved.epoch
    assert state.failovers == 1
    state.check()


def test_streams_of_a_pipeline_that_falls_silent_go_on_elsewhere_before_anybody_calls_it_broken() -> None:
    state = two(FAST, FAST)
    silent = send(state, a_request("r", 100))
    for step in range(20):
        state.handle(Progressed(silent, token("r", step)), step * 0.02)
        state.handle(Tick(), step * 0.02)
    commands = [state.handle(Tick(), 0.4 + 0.1 * step) for step in range(5)]
    moved = [command for some in commands for command in some]
    assert [type(command) for command in moved] == [CancelAt, SubmitTo]
    assert submitted(moved) == [3 - silent]
    assert moved in (commands[2], commands[3]), "after a quarter of a second"
    assert send(state, a_request("new"), 0.9) == 3 - silent
    state.check()


def test_a_pipeline_that_was_doubted_for_nothing_is_used_again_and_doubted_later() -> None:
    state = two(FAST, FAST)
    silent = send(state, a_request("r", 100))
    state.handle(Progressed(silent, token("r", 0)), 0.1)
    for step in range(2, 6):
        state.handle(Tick(), 0.1 * step)
    assert state.live["r"].epoch == 3 - silent
    state.handle(Progressed(silent, token("r", 1)), 0.6)  # late, and dropped: it is said elsewhere now
    assert state.live["r"].request.emitted == (5,)
    epochs = {send(state, a_request(f"more-{n}", 50), 0.6) for n in range(8)}
    assert epochs == {1, 2}
    assert state._routing.routes[silent].caution == 2.0


def test_a_pipeline_that_computes_a_long_prompt_may_be_silent_for_longer() -> None:
    for prompt, moves in ((16, True), (4000, False)):
        state = two(FAST, SLOW)
        at = send(state, a_request("r", 20))
        state.handle(Progressed(at, token("r", 0)), 0.1)
        state._routing.routes[3 - at].caution = 1e9
        assert send(state, a_request("long", 1, prompt=prompt), 0.1) == at
        for step in range(2, 8):
            state.handle(Tick(), 0.1 * step)
        assert (state.live["r"].epoch != at) == moves


def test_where_the_head_itself_slept_no_pipeline_is_doubted() -> None:
    state = two(FAST, FAST)
    epoch = send(state, a_request("r", 100))
    state.handle(Progressed(epoch, token("r", 0)), 0.1)
    assert state.handle(Tick(), 0.15) == []
    assert state.handle(Tick(), 9.0) == []
    assert state.handle(Tick(), 9.1) == []


def test_requests_that_wait_behind_others_move_to_a_pipeline_that_comes_up() -> None:
    state = ClientState()
    state.handle(RouteUp(1, FAST), 0.0)
    for n in range(100):
        send(state, a_request(f"r{n}", 100))
    state.handle(Progressed(1, token("r0", 0)), 0.1)
    commands = state.handle(RouteUp(2, FAST), 0.2)
    state.check()
    assert state.streams[2] > 30
    assert state.live["r0"].epoch == 1, "what has begun stays"
    assert len([command for command in commands if isinstance(command, CancelAt)]) == state.streams[2]
    assert state.handle(Tick(), 0.3) == [], "and stays where it is"


def test_what_ends_is_owed_no_more() -> None:
    state = two()
    for n in range(20):
        epoch = send(state, a_request(f"r{n}", 3))
        state.handle(Progressed(epoch, token(f"r{n}", 0, 3, Finish.LENGTH)), 0.1 * n)
        state.check()
    assert state.streams == {1: 0, 2: 0}
    assert all(abs(sum(route.owed.values())) < 1e-6 for route in state._routing.routes.values())
