"""Stages at work in their threads: what comes out is what the engine alone would say, and what breaks is told."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from msgspec.structs import replace as changed

from muster.compress.registry import make_coder
from muster.errors import ProtocolViolation
from muster.node.runners.base import Runner, Send
from muster.node.runners.serve.first import FirstStage
from muster.node.runners.serve.later import LaterStage
from muster.node.runners.serve.ring import RingPlace
from muster.node.runners.thread import ComputeThread, slowed
from muster.node.stages import Stages
from muster.serve.engine import Engine
from muster.serve.follower import Follower
from muster.serve.options import EngineOptions
from muster.spec.plan import Pipeline, ServeSettings, Stage
from muster.spec.request import Request
from muster.spec.sampling import Sampling
from muster.wire.messages.every import AnyMessage
from muster.wire.messages.generate import Admissions, Cancel, EpochUnknown, Failed, Step, StepDone, Submit, Tokens
from muster.wire.messages.placement import Assign
from tests.serve.fake_stage import FakeCache, FakeStage
from tests.serve.ring import alone

HEAD, FIRST, SECOND = "0" * 64, "1" * 64, "2" * 64
OPTIONS = EngineOptions(max_context=64, num_microbatches=3, max_microbatches=3, epoch=1)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 20))


def a_request(name: str, length: int = 12) -> Request:
    return Request(name, tuple(range(3, 3 + length)), Sampling(max_tokens=10, temperature=0.0))


class Session:
    """Collects what the first stage replies."""

    def __init__(self) -> None:
        self.tokens: dict[str, list[int]] = {}
        self.finished: set[str] = set()
        self.failures: list[Failed] = []
        self.changed = asyncio.Event()

    def reply(self, message: AnyMessage, payload: Any) -> None:
        match message:
            case Tokens():
                for progress in message.progress:
                    self.tokens.setdefault(progress.request_id, []).extend(s.token for s in progress.tokens)
                    if progress.finish:
                        self.finished.add(progress.request_id)
            case Failed():
                self.failures.append(message)
        self.changed.set()

    async def until(self, count: int) -> None:
        while len(self.finished) + len(self.failures) < count:
            self.changed.clear()
            await self.changed.wait()


def two_stages() -> tuple[Engine[FakeCache], Follower[FakeCache]]:
    engine = Engine(FakeStage(0, 2), FakeCache(64, 4), options=OPTIONS)
    return engine, Follower(FakeStage(1, 2), FakeCache(64, 4), OPTIONS.epoch)


def assign(index: int) -> Assign:
    return Assign(
        epoch=1,
        model="fake",
        manifest="",
        dtype="float64",
        index=index,
        job="fake",
        pipeline=Pipeline((Stage(FIRST, 0, 1), Stage(SECOND, 1, 2)), ServeSettings(64, 4, num_microbatches=3)),
        peers=(),
    )


def runner(index: int, work: Any, send: Send | None, most_steps: int = 64) -> Runner:
    place = RingPlace(1, HEAD, (SECOND, FIRST)[index], send, FIRST, index == 1, None, most_steps)
    coder, thread = make_coder(None), ComputeThread(1, speed=lambda: 1.0)
    if index == 0:
        return FirstStage(place, work, coder.encode, thread)
    return LaterStage(place, work, coder.decode, coder.encode, thread)


class _Place:
    """What a node would give to a placement."""

    def __init__(self, assign: Assign) -> None:
        self.assign = assign

    async def close(self) -> None: ...


def start(stages: Stages, assign: Assign, work: Any, box: "_Box") -> None:
    steps = assign.pipeline.work.num_microbatches
    stages.start(_Place(assign), runner(assign.index, work, box.put, steps))  # type: ignore[arg-type]


class _Box:
    """A neighbour's outbox that hands over on the spot."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.target: Stages | None = None

    def put(self, message: AnyMessage, payload: Any = b"") -> None:
        assert self.target is not None
        self.target.receive(self.source, message, bytes(payload), lambda message, payload: None)

    async def close(self) -> None: ...


def test_a_ring_of_two_runtimes_answers_as_the_model_alone() -> None:
    async def body() -> None:
        lost: list[Any] = []
        first = Stages(FIRST, HEAD, lambda *what: lost.append(what))
        second = Stages(SECOND, HEAD, lambda *what: lost.append(what))
        engine, follower = two_stages()
        forward, back = _Box(FIRST), _Box(SECOND)
        forward.target, back.target = second, first
        start(first, assign(0), engine, forward)
        start(second, assign(1), follower, back)
        session = Session()
        requests = [a_request(f"r{i}", 5 + i) for i in range(6)]
        for request in requests:
            first.receive(HEAD, Submit(epoch=1, request=request), b"", session.reply)
        await session.until(len(requests))
        assert lost == []
        assert {r.id: alone(r, 2, 64) for r in requests} == session.tokens
        await first.close()
        await second.close()

    run(body())


THIRD = "3" * 64


@pytest.mark.parametrize("late", [False, True], ids=["admissions first", "admissions behind their steps"])
def test_a_middle_stage_sees_no_prompt_and_the_last_one_waits_for_it(late: bool) -> None:
    async def body() -> None:
        coder, seen = make_coder(None), list[AnyMessage]()
        options = replace(OPTIONS, num_microbatches=2, max_microbatches=2)

        def to_middle(message: AnyMessage, payload: Any) -> None:
            seen.append(message)
            middle.receive(FIRST, message, bytes(payload), nowhere)  # type: ignore[arg-type]

        def to_last(message: AnyMessage, payload: Any) -> None:
            last.receive(SECOND, message, bytes(payload), nowhere)  # type: ignore[arg-type]

        def past_the_middle(message: AnyMessage, payload: Any) -> None:
            deliver = partial(last.receive, FIRST, message, payload, nowhere)  # type: ignore[arg-type]
            asyncio.get_running_loop().call_later(0.05, deliver) if late else deliver()

        def home(message: AnyMessage, payload: Any) -> None:
            first.receive(THIRD, message, bytes(payload), nowhere)  # type: ignore[arg-type]

        def at(previous: str, send: Send, is_last: bool = False, to: Send | None = None) -> RingPlace:
            return RingPlace(1, HEAD, previous, send, FIRST, is_last, to, max_steps=2)

        engine = Engine(FakeStage(0, 3), FakeCache(64, 4), options=options)
        others = [Follower(FakeStage(index, 3), FakeCache(64, 4), OPTIONS.epoch) for index in (1, 2)]
        threads = [ComputeThread(1, speed=lambda: 1.0) for _ in range(3)]
        first = FirstStage(at(THIRD, to_middle, to=past_the_middle), engine, coder.encode, threads[0])
        middle = LaterStage(at(FIRST, to_last), others[0], coder.decode, coder.encode, threads[1])
        last = LaterStage(at(SECOND, home, is_last=True), others[1], coder.decode, coder.encode, threads[2])
        running = [asyncio.create_task(one.run()) for one in (first, middle, last)]
        session = Session()
        requests = [a_request(f"r{i}", 5 + i) for i in range(6)]
        for request in requests:
            first.receive(HEAD, Submit(epoch=1, request=request), b"", session.reply)
        await session.until(len(requests))
        assert {r.id: alone(r, 3, 64) for r in requests} == session.tokens
        assert all(isinstance(step, Step) and not step.admit and not step.release for step in seen)
        assert any(isinstance(step, Step) and step.apart for step in seen)
        assert last._admissions == {}
        for one, task in zip((first, middle, last), running, strict=True):
            task.cancel()
            await one.close()

    run(body())


def test_admissions_come_from_the_first_stage_to_the_last_and_are_bounded() -> None:
    async def body() -> None:
        later = runner(1, two_stages()[1], lambda message, payload: None, most_steps=2)
        for sequence in range(2):
            later.receive(FIRST, Admissions(epoch=1, sequence=sequence), b"", nowhere)
        with pytest.raises(ProtocolViolation, match="More than 2"):
            later.receive(FIRST, Admissions(epoch=1, sequence=2), b"", nowhere)
        with pytest.raises(ProtocolViolation, match="forbids"):
            later.receive(HEAD, Admissions(epoch=1, sequence=0), b"", nowhere)
        await later.close()

    run(body())


def nowhere(message: AnyMessage, payload: Any) -> None: ...


def test_only_the_head_may_submit_and_only_the_previous_stage_may_send_steps() -> None:
    async def body() -> None:
        stages = Stages(SECOND, HEAD, lambda *what: None)
        _, follower = two_stages()
        start(stages, assign(1), follower, _Box(SECOND))
        for message in (Submit(epoch=1, request=a_request("r")), Cancel(epoch=1, request_id="r")):
            with pytest.raises(ProtocolViolation):
                stages.receive(FIRST, message, b"", lambda message, payload: None)
        for message in (Step(epoch=1, sequence=0, rows=()), StepDone(epoch=1, sequence=0, sampled=())):
            with pytest.raises(ProtocolViolation):
                stages.receive(HEAD, message, b"", lambda message, payload: None)
        await stages.close()

    run(body())


def test_whoever_submits_to_a_placement_that_is_gone_hears_of_it_and_a_neighbour_does_not() -> None:
    async def body() -> None:
        stages = Stages(FIRST, HEAD, lambda *what: None)
        said: list[Any] = []
        stages.receive(
            HEAD, Submit(epoch=9, request=a_request("r")), b"", lambda message, payload: said.append(message)
        )
        assert said == [EpochUnknown(epoch=9)]
        stages.receive(SECOND, StepDone(epoch=9, sequence=0, sampled=()), b"", lambda *what: said.append(what))
        assert len(said) == 1

    run(body())


def test_a_stage_that_breaks_sends_its_requests_elsewhere_and_is_reported() -> None:
    class Broken(FakeStage):
        def run(self, *args: Any) -> Any:
            raise RuntimeError("out of memory")

    async def body() -> None:
        lost: list[tuple[int, str, str]] = []
        stages = Stages(FIRST, HEAD, lambda *what: lost.append(what))
        start(stages, assign(0), Engine(Broken(0, 2), FakeCache(64, 4), options=OPTIONS), _Box(FIRST))
        session = Session()
        stages.receive(HEAD, Submit(epoch=1, request=a_request("r")), b"", session.reply)
        await session.until(1)
        assert session.failures[0].retry
        assert lost[0][:2] == (1, FIRST)
        assert "out of memory" in lost[0][2]
        await stages.close()

    run(body())


@pytest.mark.parametrize("index", [0, 1])
def test_a_stage_that_was_sent_nonsense_reports_the_sender_and_not_itself(index: int) -> None:
    async def body() -> None:
        lost: list[tuple[int, str, str]] = []
        me, sender = (FIRST, SECOND) if index == 0 else (SECOND, FIRST)
        stages = Stages(me, HEAD, lambda *what: lost.append(what))
        start(stages, assign(index), two_stages()[index], _Box(me))
        nonsense = StepDone(epoch=1, sequence=-1, sampled=()) if index == 0 else Step(epoch=1, sequence=0, rows=())
        stages.receive(sender, nonsense, b"", lambda message, payload: None)
        while not lost:
            await asyncio.sleep(0.01)
        assert lost[0][:2] == (1, sender)
        await stages.close()

    run(body())


@pytest.mark.parametrize("index", [0, 1])
def test_a_neighbour_cannot_make_more_steps_wait_than_are_ever_in_flight(index: int) -> None:
    async def body() -> None:
        me, sender = (FIRST, SECOND) if index == 0 else (SECOND, FIRST)
        stages = Stages(me, HEAD, lambda *what: None)
        start(stages, assign(index), two_stages()[index], _Box(me))
        step = StepDone(epoch=1, sequence=9, sampled=()) if index == 0 else Step(epoch=1, sequence=9, rows=())
        for number in (9, 10, 11):
            stages.receive(sender, changed(step, sequence=number), b"", lambda message, payload: None)
        with pytest.raises(ProtocolViolation, match="More than 3"):
            stages.receive(sender, changed(step, sequence=12), b"", lambda message, payload: None)
        await stages.close()

    run(body())


def test_a_session_that_goes_away_at_once_leaves_no_work_behind() -> None:
    async def body() -> None:
        engine = Engine(FakeStage(0, 1), FakeCache(64, 4), options=EngineOptions(max_context=4096, epoch=1))
        head = runner(0, engine, None)
        session = Session()
        head.receive(HEAD, Submit(epoch=1, request=Request("r", (1, 2), Sampling(max_tokens=200))), b"", session.reply)
        head.forget(session.reply)
        task = asyncio.create_task(head.run())
        await asyncio.sleep(0.05)
        assert head.vitals().active_requests == engine.stats().running == 0
        assert engine.stats().generated_tokens == 0
        task.cancel()
        await head.close()

    run(body())


def test_a_request_that_cannot_be_served_is_refused_with_its_reason_and_not_retried() -> None:
    async def body() -> None:
        engine, _ = two_stages()
        head = runner(0, engine, None)
        session = Session()
        task = asyncio.create_task(head.run())
        head.receive(HEAD, Submit(epoch=1, request=a_request("long", 70)), b"", session.reply)
        await session.until(1)
        task.cancel()
        assert session.failures[0].code == "context_length_exceeded"
        assert not session.failures[0].retry

    run(body())


def test_a_session_that_goes_away_leaves_no_work_behind() -> None:
    async def body() -> None:
        engine = Engine(FakeStage(0, 1), FakeCache(64, 4), options=EngineOptions(max_context=4096, epoch=1))
        head = runner(0, engine, None)
        session = Session()
        task = asyncio.create_task(head.run())
        head.receive(HEAD, Submit(epoch=1, request=Request("r", (1, 2), Sampling(max_tokens=200))), b"", session.reply)
        await session.changed.wait()
        head.forget(session.reply)
        while engine.stats().running:
            await asyncio.sleep(0.01)
        assert head.vitals().active_requests == 0
        task.cancel()

    run(body())


def test_a_step_without_its_hidden_state_breaks_the_stage_not_the_process() -> None:
    async def body() -> None:
        _, follower = two_stages()
        later = runner(1, follower, lambda message, payload: None)
        later.receive(FIRST, Step(epoch=1, sequence=0, rows=()), b"", lambda message, payload: None)
        with pytest.raises(ProtocolViolation):
            await later.run()
        await later.close()

    run(body())


def seconds_at_quarter_speed(work: Callable[[], object], threads: int) -> float:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        began_s = time.perf_counter()
        slowed(work, speed=0.25)
        return time.perf_counter() - began_s
    finally:
        torch.set_num_threads(before)


def compute_for(seconds: float) -> None:
    began_s = time.thread_time()
    while time.thread_time() - began_s < seconds:
        pass


def test_a_rehearsed_slow_machine_takes_as_much_longer_as_it_says() -> None:
    assert seconds_at_quarter_speed(lambda: compute_for(0.03), threads=1) >= 0.12
    assert seconds_at_quarter_speed(lambda: time.sleep(0.03), threads=2) >= 0.12


def test_a_machine_that_becomes_slower_is_so_from_the_next_step_on() -> None:
    async def body() -> None:
        speeds, thread = [1.0], ComputeThread(1, lambda: speeds[-1])
        await thread.compute(lambda: compute_for(0.03))
        at_first_s = thread.vitals().busy_s
        speeds.append(0.1)
        await thread.compute(lambda: compute_for(0.03))
        assert thread.vitals().busy_s - at_first_s >= 0.3
        await thread.close()

    run(body())


def test_what_others_take_of_the_processor_makes_a_rehearsed_slow_machine_no_slower() -> None:
    assert seconds_at_quarter_speed(lambda: time.sleep(0.05), threads=1) < 0.19
