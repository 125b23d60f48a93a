from dataclasses import replace

import pytest

from muster.cost.memory import DRAFT_SEQUENCES
from muster.serve.guess.draft import DraftGuesser
from muster.serve.guess.guessing import Guessing
from muster.serve.options import EngineOptions
from muster.serve.sequence import Sequence
from muster.spec.request import Request
from muster.spec.sampling import Sampling
from tests.serve.fake_stage import FakeCache, FakeStage
from tests.serve.ring import alone, fake_ring

OPTIONS = EngineOptions(max_context=200, num_microbatches=4, prefill_tokens=32)


def request(name: str, **sampling: object) -> Request:
    defaults: dict[str, object] = {"max_tokens": 40, "temperature": 0.8, "seed": len(name)}
    return Request(name, (1, 2, 3, 4, 5), Sampling(**{**defaults, **sampling}))  # type: ignore[arg-type]


def draft(pages: int = 80, prefill_tokens: int = 4) -> DraftGuesser[FakeCache]:
    """The very model of a ring of one stage."""
    return DraftGuesser(FakeStage(), FakeCache(pages, 4), prefill_tokens)


def sequence_of(one: Request, emitted: int) -> Sequence:
    return Sequence(one, 0, [*one.prompt, *alone(one, 1, 200)[:emitted]])


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.0}, {"frequency_penalty": 1.5, "repetition_penalty": 1.3}])
def test_a_model_that_is_the_same_guesses_what_the_sampler_will_choose(sampling):
    one = request("one", **sampling)
    answer, guesser = alone(one, 1, 200), draft()
    for emitted, count in ((0, 5), (3, 1), (6, 8), (20, 20)):
        assert guesser.guess(sequence_of(one, emitted), count) == tuple(answer[emitted : emitted + count])


def test_what_was_wrong_is_computed_again_and_nothing_else():
    one = request("one")
    guesser = draft()
    guesser.guess(sequence_of(one, 4), 6)
    other = sequence_of(one, 6)
    other.tokens[-1] = (other.tokens[-1] + 1) % 37
    stage = guesser._stage
    stage.batches.clear()
    guesser.guess(other, 1)
    assert [(batch.query_lengths, batch.context_lengths) for batch in stage.batches] == [((1,), (11,))]


def test_more_sequences_than_seats_take_turns_and_get_their_own_guesses():
    requests = [request("r" * (i + 1)) for i in range(DRAFT_SEQUENCES + 2)]
    guesser = draft()
    for emitted in (0, 5, 9):
        for one in requests:
            right = tuple(alone(one, 1, 200)[emitted : emitted + 4])
            assert guesser.guess(sequence_of(one, emitted), 4) == right
    guesser.forget(sequence_of(requests[-1], 0))
    assert guesser.guess(sequence_of(requests[0], 5), 2) == tuple(alone(requests[0], 1, 200)[5:7])


def test_a_text_longer_than_its_pages_gets_no_guesses():
    guesser = draft(pages=DRAFT_SEQUENCES * 3)
    assert guesser.prospect(sequence_of(request("one"), 5)).most == 2
    assert guesser.prospect(sequence_of(request("one"), 7)) is None


def test_a_ring_with_a_draft_that_is_always_right_needs_few_passes():
    now = [0.0]

    def clock() -> float:
        now[0] += 0.001
        return now[0]

    guesser = DraftGuesser(FakeStage(), FakeCache(200, 4), clock=lambda: 0.0)
    ring = fake_ring(1, 60, 4, replace(OPTIONS, num_microbatches=1), guessing=Guessing([guesser], clock))
    one = request("one")
    ring.submit(one)
    ring.run()
    assert ring.tokens["one"] == alone(one, 1, 200)
    assert ring.engine.stats().steps < 12
