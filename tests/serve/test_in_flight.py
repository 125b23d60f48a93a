"""The engine keeps as many steps in flight as those that came back ask for, and takes their tokens in any order."""

from muster.serve.engine import Engine
from muster.serve.follower import Follower
from muster.serve.options import EngineOptions
from muster.spec.request import Request
from muster.spec.sampling import Sampling
from muster.wire.messages.generate import StepDone
from tests.serve.fake_stage import FakeCache, FakeStage
from tests.serve.ring import alone, fake_ring


def options(**changes: int) -> EngineOptions:
    return EngineOptions(max_context=64, **{"num_microbatches": 2, "max_batch": 2, **changes})


def request(number: int) -> Request:
    return Request(str(number), (number, 7, number), Sampling(max_tokens=12, temperature=0.0))


def test_a_ring_whose_steps_take_long_on_their_way_gets_more_of_them_and_more_sequences():
    ring = fake_ring(3, 200, 4, options())
    for number in range(30):
        ring.submit(request(number))
    for _ in range(40):
        while ring.step():
            pass
        for hop in range(3):
            ring.move(hop)
        ring.engine.observe([0.01] * 3, 0.1)
        ring.engine.check()
    stats = ring.engine.stats()
    assert 13 <= stats.most_in_flight <= 15
    ring.run()
    assert ring.tokens == {str(number): alone(request(number), 3, 64) for number in range(30)}


def test_never_more_sequences_run_than_all_steps_in_flight_take():
    ring = fake_ring(2, 200, 4, options())
    for number in range(9):
        ring.submit(request(number))
    while ring.step():
        pass
    assert ring.engine.stats().running == 4


def test_tokens_that_come_back_in_another_order_or_twice_are_handed_out_once():
    engine = Engine(FakeStage(0, 2), FakeCache(100, 4), options=options(num_microbatches=3))
    follower = Follower(FakeStage(1, 2), FakeCache(100, 4), 0)
    said: dict[str, list[int]] = {str(number): [] for number in range(6)}
    for number in range(6):
        engine.submit(request(number))
    while engine.has_work or engine.in_flight:
        while engine.has_work:
            outputs = engine.step()
            if outputs.forward is not None:
                follower.add(*outputs.forward)
        done: list[StepDone] = []
        while (due := follower.take()) is not None:
            result = follower.run(*due)
            assert isinstance(result, StepDone)
            done.append(result)
        for result in [*reversed(done), *done]:
            for progress in engine.receive(result):
                said[progress.request_id] += [sampled.token for sampled in progress.tokens]
        engine.check()
    assert said == {str(number): alone(request(number), 2, 64) for number in range(6)}
