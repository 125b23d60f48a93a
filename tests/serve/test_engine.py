from dataclasses import replace

import pytest

from muster.errors import ContextTooLong, InvalidRequest, LimitReached, ProtocolViolation
from muster.serve.options import EngineOptions
from muster.spec.request import Finish, Priority, Request, Sampled
from muster.spec.sampling import Sampling
from muster.wire.messages.generate import StepDone
from tests.serve.ring import alone, fake_ring

OPTIONS = EngineOptions(max_context=200, num_microbatches=1, prefill_tokens=16)


def request(name: str, prompt_length: int, **sampling: object) -> Request:
    prompt = tuple((len(name) + 7 * i) % 37 for i in range(prompt_length))
    defaults: dict[str, object] = {"max_tokens": 12, "temperature": 0.0}
    return Request(name, prompt, Sampling(**{**defaults, **sampling}))  # type: ignore[arg-type]


@pytest.mark.parametrize("num_stages", [1, 2, 4])
def test_every_request_gets_the_tokens_that_it_would_get_alone(num_stages):
    ring = fake_ring(num_stages, 60, 4, replace(OPTIONS, num_microbatches=num_stages))
    requests = [request("a" * (i + 1), 3 + 9 * i, seed=i, temperature=i % 2) for i in range(7)]
    for one in requests:
        ring.submit(one)
    ring.run()
    for one in requests:
        assert ring.tokens[one.id] == alone(one, num_stages, 200)
        assert ring.finished[one.id] == Finish.LENGTH
    ring.engine.check()
    assert ring.engine.stats().available_pages == 60


def test_too_few_pages_for_all_preempt_some_and_change_no_token():
    ring = fake_ring(2, 12, 4, replace(OPTIONS, num_microbatches=2))
    requests = [request("r" * (i + 1), 8, max_tokens=30, seed=i, temperature=0.9) for i in range(6)]
    for one in requests:
        ring.submit(one)
    ring.run()
    assert ring.engine.stats().preemptions > 0
    assert {one.id: ring.tokens[one.id] for one in requests} == {one.id: alone(one, 2, 200) for one in requests}


def test_an_interrupted_request_continues_exactly():
    whole = request("whole", 10, max_tokens=20, temperature=1.0, seed=5, frequency_penalty=1.5, repetition_penalty=1.2)
    expected = alone(whole, 1, 200)
    for cut in (1, 7, 19):
        ring = fake_ring(1, 60, 4, OPTIONS)
        ring.submit(replace(whole, emitted=tuple(expected[:cut])))
        ring.run()
        assert ring.tokens["whole"] == expected


def test_a_resubmission_that_is_already_complete_ends_at_once_without_new_tokens():
    ring = fake_ring(1, 60, 4, OPTIONS)
    ring.submit(replace(request("full", 4, max_tokens=2), emitted=(1, 2)))
    ring.submit(replace(request("stop", 4, stop_token_ids=(2,)), emitted=(1, 2)))
    assert ring.engine.has_work
    ring.run()
    assert ring.finished == {"full": Finish.LENGTH, "stop": Finish.STOP}
    assert ring.tokens["full"] == [1, 2]


def test_the_stop_token_is_the_last_one_emitted():
    plain = request("plain", 6)
    tokens = alone(plain, 1, 200)
    stopped = request("plain", 6, stop_token_ids=(tokens[4],))
    ring = fake_ring(1, 60, 4, OPTIONS)
    ring.submit(stopped)
    ring.run()
    assert ring.tokens["plain"] == tokens[: tokens.index(tokens[4]) + 1]
    assert ring.finished["plain"] == Finish.STOP


def test_end_of_sequence_ends_unless_the_request_ignores_it():
    tokens = alone(request("plain", 6), 1, 200)
    options = replace(OPTIONS, eos_token_ids=frozenset({tokens[2]}))
    ring = fake_ring(1, 60, 4, options)
    ring.submit(request("plain", 6))
    ring.submit(replace(request("plain", 6, ignore_eos=True), id="ignore"))
    ring.run()
    assert ring.tokens["plain"] == tokens[: tokens.index(tokens[2]) + 1]
    assert ring.tokens["ignore"] == tokens


def test_the_context_limit_ends_a_request():
    ring = fake_ring(1, 60, 4, replace(OPTIONS, max_context=20))
    ring.submit(request("long", 15, max_tokens=100))
    ring.run()
    assert len(ring.tokens["long"]) == 5
    assert ring.finished["long"] == Finish.LENGTH


def test_a_prompt_is_computed_once_for_all_its_samples():
    ring = fake_ring(1, 60, 4, OPTIONS)
    prompt = tuple(range(30))  # seven full pages and a partly filled one
    samples = [Request(f"n{i}", prompt, Sampling(max_tokens=9, seed=i)) for i in range(4)]
    for one in samples:
        ring.submit(one)
    ring.run()
    stats = ring.engine.stats()
    assert stats.reused_tokens == 3 * 29
    assert stats.computed_tokens == 30 + 3 + 4 * 8
    assert [ring.tokens[one.id] for one in samples] == [alone(one, 1, 200) for one in samples]


def test_a_conversation_finds_its_own_past():
    ring = fake_ring(1, 60, 4, OPTIONS)
    first = request("first", 20)
    ring.submit(first)
    ring.run()
    second = Request("second", (*first.prompt, *ring.tokens["first"], 1, 2, 3), Sampling(max_tokens=4, temperature=0.0))
    ring.submit(second)
    ring.run()
    assert ring.engine.stats().reused_tokens == 28  # 20 + 12 tokens, of which the last was never computed
    assert ring.tokens["second"] == alone(second, 1, 200)


def test_interactive_requests_push_offline_ones_aside():
    ring = fake_ring(1, 10, 4, OPTIONS)
    offline = [replace(request("o" * (i + 1), 8, max_tokens=24), priority=Priority.OFFLINE) for i in range(2)]
    for one in offline:
        ring.submit(one)
    for _ in range(6):
        ring.step()
    urgent = request("urgent", 30, max_tokens=3)
    ring.submit(urgent)
    for _ in range(5):
        ring.step()
    assert "urgent" in ring.finished
    assert not set(ring.finished) & {one.id for one in offline}
    ring.run()
    for one in [*offline, urgent]:
        assert ring.tokens[one.id] == alone(one, 1, 200)


def test_several_microbatches_share_the_requests_evenly():
    ring = fake_ring(4, 200, 4, replace(OPTIONS, num_microbatches=4, prefill_tokens=1000))
    for i in range(16):
        ring.submit(request("x" * (i + 1), 5, max_tokens=40))
    ring.run()
    sizes = [len(batch.query_lengths) for batch in ring.engine._stage.batches]
    assert max(sizes) <= 4
    assert sum(sizes) / len(sizes) > 3.9


def test_one_stage_alone_runs_all_requests_together():
    ring = fake_ring(1, 60, 4, replace(OPTIONS, num_microbatches=4))
    for name in ("a", "bb", "ccc"):
        ring.submit(request(name, 5))
    ring.step()
    assert len(ring.engine._stage.batches[0].query_lengths) == 3


def test_chunks_of_one_prompt_follow_each_other_without_waiting():
    ring = fake_ring(4, 60, 4, replace(OPTIONS, num_microbatches=4))
    ring.submit(request("long", 64))
    assert [ring.step() for _ in range(5)] == [True, True, True, True, False]
    assert ring.engine.in_flight == 4
    ring.run()
    assert ring.tokens["long"] == alone(request("long", 64), 4, 200)


def test_a_cancelled_request_gives_back_its_pages_and_gets_no_more_tokens():
    ring = fake_ring(2, 60, 4, replace(OPTIONS, num_microbatches=2))
    ring.submit(request("gone", 8))
    ring.submit(request("stays", 9))
    ring.step()
    ring.cancel("gone")
    ring.engine.cancel("never there")
    ring.engine.check()
    ring.run()
    assert ring.tokens["gone"] == []
    assert ring.tokens["stays"] == alone(request("stays", 9), 2, 200)
    assert ring.engine.stats().available_pages == 60


def test_logprobs_come_with_the_token():
    ring = fake_ring(1, 60, 4, OPTIONS)
    ring.engine.submit(request("p", 4, logprobs=3, max_tokens=1))
    (progress,) = ring.engine.step().progress
    sampled = progress.tokens[0]
    assert sampled.top[0].token == sampled.token
    assert sampled.logprob == pytest.approx(sampled.top[0].logprob)
    assert len(sampled.top) == 3


def test_has_work_does_not_promise_the_same_emptiness_twice():
    ring = fake_ring(2, 60, 4, replace(OPTIONS, num_microbatches=2))
    ring.submit(request("one", 8))
    ring.step()
    while ring.engine.has_work:
        ring.step()
    assert ring.engine.in_flight == 1


@pytest.mark.parametrize(
    ("bad", "error", "words"),
    [
        (request("x", 0), InvalidRequest, "empty"),
        (request("x", 200), ContextTooLong, "200 tokens and the context holds 200"),
        (request("x", 50, max_tokens=150), ContextTooLong, "grow to 200 tokens and this pool can keep 161"),
        (Request("x", (1, 37)), InvalidRequest, "outside"),
        (Request("x", (1, -1)), InvalidRequest, "outside"),
        (request("x", 4, logit_bias={99: 1.0}), InvalidRequest, "logit_bias"),
        (request("x", 4, temperature=9.0), InvalidRequest, "temperature"),
        (request("taken", 4), InvalidRequest, "running already"),
    ],
)
def test_a_request_that_cannot_be_served_is_refused_with_its_reason(bad, error, words):
    ring = fake_ring(1, 40, 4, OPTIONS)
    ring.submit(request("taken", 4))
    with pytest.raises(error, match=words):
        ring.engine.submit(bad)
    ring.run()
    ring.engine.check()


def test_a_full_queue_refuses():
    ring = fake_ring(1, 40, 4, replace(OPTIONS, max_queue=2))
    ring.submit(request("a", 4))
    ring.submit(request("bb", 4))
    with pytest.raises(LimitReached, match="2 requests are waiting"):
        ring.submit(request("ccc", 4))
    ring.run()
    assert set(ring.finished) == {"a", "bb"}


@pytest.mark.parametrize(
    "done",
    [
        StepDone(epoch=1, sequence=0, sampled=(Sampled(1),)),
        StepDone(epoch=0, sequence=1, sampled=(Sampled(1),)),
        StepDone(epoch=0, sequence=0, sampled=()),
        StepDone(epoch=0, sequence=0, sampled=(Sampled(37),)),
        StepDone(epoch=0, sequence=0, sampled=(Sampled(-1),)),
        StepDone(epoch=0, sequence=0, sampled=(Sampled(1, float("nan")),)),
    ],
)
def test_results_that_make_no_sense_are_a_violation_and_change_nothing(done):
    ring = fake_ring(2, 40, 4, OPTIONS)
    ring.submit(request("a", 4))
    ring.step()
    with pytest.raises(ProtocolViolation):
        ring.engine.receive(done)
    ring.engine.check()
    ring.run()
    assert ring.tokens["a"] == alone(request("a", 4), 2, 200)


def test_results_that_nobody_waits_for_are_a_violation():
    ring = fake_ring(2, 40, 4, OPTIONS)
    for sequence in (-1, 0):
        with pytest.raises(ProtocolViolation, match="none was in flight"):
            ring.engine.receive(StepDone(epoch=0, sequence=sequence, sampled=()))
