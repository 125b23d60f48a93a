"""Guesses, right or wrong, change no token and leave nothing behind."""

from dataclasses import replace

import pytest

from muster.errors import ProtocolViolation
from muster.serve.guess.guessing import Guessing
from muster.serve.guess.ngrams import NgramGuesser
from muster.serve.options import EngineOptions
from muster.spec.request import Finish, Request, Sampled
from muster.spec.sampling import Sampling
from muster.wire.messages.generate import StepDone
from tests.serve.guess.oracle import Oracle
from tests.serve.ring import Ring, alone, fake_ring

OPTIONS = EngineOptions(max_context=200, num_microbatches=3, prefill_tokens=32)
STAGES = 3


def request(name: str, **sampling: object) -> Request:
    defaults: dict[str, object] = {"max_tokens": 40, "temperature": 0.0}
    return Request(name, (1, 2, 3, 4, 5), Sampling(**{**defaults, **sampling}))  # type: ignore[arg-type]


def answer(one: Request) -> list[int]:
    return alone(one, STAGES, 200, OPTIONS.eos_token_ids)


def guessed_ring(seed: int = 0, options: EngineOptions = OPTIONS, pages: int = 60) -> Ring:
    return fake_ring(STAGES, pages, 4, options, guessing=Oracle(lambda one: alone(one, STAGES, 200), seed))


SAMPLINGS = {
    "greedy": {},
    "warm": {"temperature": 0.7, "seed": 3},
    "penalised": {"temperature": 1.0, "seed": 4, "frequency_penalty": 1.5, "repetition_penalty": 1.3},
    "not before twelve": {"temperature": 1.5, "seed": 5, "min_tokens": 12, "stop_token_ids": tuple(range(9))},
    "stops": {"temperature": 1.5, "seed": 25, "stop_token_ids": (2,)},
    "with logprobs": {"temperature": 0.9, "seed": 7, "logprobs": 3},
    "scored": {"temperature": 0.9, "seed": 7, "prompt_logprobs": 2},
}


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)
def test_right_guesses_save_passes_and_no_guess_changes_a_token(sampling):
    one = request("one", **sampling)
    plain, ring = fake_ring(STAGES, 60, 4, OPTIONS), guessed_ring()
    for each in (plain, ring):
        each.submit(one)
        each.run()
    assert ring.tokens == plain.tokens == {"one": answer(one)}
    assert ring.finished == plain.finished
    assert ring.scores == plain.scores
    assert ring.engine.stats().steps < plain.engine.stats().steps
    ring.engine.check()
    assert ring.engine.stats().available_pages == 60


def test_logprobs_are_those_of_each_token_that_was_accepted():
    one = request("one", temperature=0.9, seed=7, logprobs=3)
    seen = []
    for ring in (fake_ring(STAGES, 60, 4, OPTIONS), guessed_ring()):
        ring.submit(one)
        sampled: list[Sampled] = []
        while ring.local.busy:
            sampled += [token for progress in ring.local.work() for token in progress.tokens]
        seen.append(sampled)
    assert seen[0] == seen[1]


def test_many_sequences_that_guess_and_lose_their_pages_get_their_own_tokens():
    ring = guessed_ring(options=replace(OPTIONS, num_microbatches=4), pages=24)
    requests = [request("r" * (i + 1), max_tokens=30, temperature=0.8, seed=i) for i in range(6)]
    for one in requests:
        ring.submit(one)
    ring.run()
    assert ring.engine.stats().preemptions > 0
    assert ring.tokens == {one.id: answer(one) for one in requests}


def test_a_page_is_found_only_when_its_guesses_were_right():
    one = request("one", max_tokens=30)
    ring = guessed_ring(seed=1)
    ring.submit(one)
    ring.run()
    longer = Request("longer", (*one.prompt, *answer(one)), Sampling(max_tokens=5, temperature=0.0))
    ring.submit(longer)
    ring.run()
    assert ring.tokens["longer"] == answer(longer)
    # All pages that the first one filled, each of which was at least in part guessed.
    assert ring.engine.stats().reused_tokens == (5 + 30 - 1) // 4 * 4


def test_nothing_behind_a_stop_token_or_the_last_place_is_handed_out():
    whole = request("whole", temperature=1.0, seed=8, max_tokens=20)
    stop = answer(whole)[10]
    for one, reason in (
        (replace(whole, sampling=replace(whole.sampling, stop_token_ids=(stop,))), Finish.STOP),
        (replace(whole, sampling=replace(whole.sampling, max_tokens=13)), Finish.LENGTH),
    ):
        for seed in range(5):
            ring = fake_ring(STAGES, 60, 4, OPTIONS, guessing=Oracle(lambda _: answer(whole), seed))
            ring.submit(one)
            ring.run()
            assert ring.tokens["whole"] == answer(one)
            assert ring.finished["whole"] == reason


def test_a_request_may_be_cancelled_while_its_guesses_are_checked():
    ring = guessed_ring()
    ring.submit(request("one"))
    while ring.engine.stats().generated_tokens < 3 or ring.engine.in_flight == 0:
        ring._note(ring.local.work())
    ring.cancel("one")
    ring.run()
    ring.engine.check()
    assert ring.engine.stats().available_pages == 60


def test_text_that_repeats_itself_is_guessed_from_itself():
    seconds = iter(range(100000))
    guessing = Guessing([NgramGuesser()], lambda: float(next(seconds)))
    ring = fake_ring(STAGES, 60, 4, OPTIONS, guessing=guessing)
    looping = request("one", logit_bias={7: 100.0}, max_tokens=60)
    ring.submit(looping)
    ring.run()
    assert ring.tokens["one"] == [7] * 60
    assert ring.engine.stats().steps < 20
    assert guessing.counts().accepted > 40


def in_flight(ring: Ring) -> tuple[StepDone, Ring]:
    """What came of a step with guesses, on its last hop."""
    ring.submit(request("one"))
    while True:
        ring.step()
        for hop in range(STAGES - 1):
            ring.move(hop)
        (done,) = ring.local._done
        if done.accepted and len(done.sampled) > 1:
            return done, ring
        ring.move(STAGES - 1)


BROKEN = {
    "more rows than were sampled": lambda done: {"accepted": (*done.accepted, 1)},
    "more tokens than are said": lambda done: {"sampled": (*done.sampled, Sampled(1))},
    "more tokens than were sampled": lambda done: {"sampled": (Sampled(1),) * 40, "accepted": (40,)},
    "no token": lambda done: {"sampled": (), "accepted": (0,)},
    "fewer than none": lambda done: {"sampled": (), "accepted": (-1,)},
    "a wrong guess": lambda done: {"sampled": (Sampled((done.sampled[0].token + 1) % 37), *done.sampled[1:])},
    "tokens of nowhere": lambda done: {"sampled": (*done.sampled[:-1], Sampled(37))},
    "counts left out": lambda done: {"accepted": ()},
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_a_last_stage_that_counts_wrongly_is_found_out(broken):
    done, ring = in_flight(guessed_ring())
    changed = {field: getattr(done, field) for field in done.__struct_fields__} | broken(done)
    with pytest.raises(ProtocolViolation):
        ring.engine.receive(StepDone(**changed))
    ring.engine.receive(done)
    ring.engine.check()
