"""The head of a simulated ring against the engine's own scheduler, and its books under any load."""

from collections import deque
from math import inf

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from muster.serve.options import EngineOptions
from muster.serve.pages import PagePool
from muster.serve.schedule import Scheduler
from muster.serve.sequence import Sequence as RealSequence
from muster.sim.serve.arrivals import Arrival
from muster.sim.serve.scheduler import Sequence, SimulatedScheduler, Turn
from muster.spec.request import Request
from muster.spec.sampling import Sampling
from tests.examples import examples

LENGTHS = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 30)), min_size=1, max_size=25)


def request(rank: int, prompt: int, output: int) -> Sequence:
    return Sequence(rank, Arrival(0.0, prompt, output), prompt, prompt + output)


def play(head: SimulatedScheduler, sequences: list[Sequence], in_flight: int) -> list[int]:
    """Work until nothing is left; the ranks in the order in which they finished."""
    for sequence in sequences:
        head.add(sequence)
    flight, finished, limit = deque(), [], 100_000
    while head.outstanding or flight:
        turn = head.turn() if len(flight) < in_flight else None
        head.check()
        if turn is not None:
            flight.append(turn)
        else:
            assert flight, "nothing runs and nothing is under way"
            finished += [sequence.rank for sequence in head.returned(flight.popleft())[1]]
            head.check()
        limit -= 1
        assert limit, "the head does not come to an end"
    return finished


@given(LENGTHS, st.integers(6, 40), st.integers(1, 6), st.integers(1, 64), st.integers(1, 12))
@examples(60)
def test_everybody_finishes_once_and_no_page_is_lost(lengths, pages, in_flight, prefill_tokens, max_batch):
    head = SimulatedScheduler(pages, 16, in_flight, prefill_tokens, max_batch)
    sequences = [request(rank, *pair) for rank, pair in enumerate(lengths)]
    assert sorted(play(head, sequences, in_flight)) == list(range(len(lengths)))
    assert [s.tokens for s in sequences] == [prompt + output for prompt, output in lengths]
    assert head.used_pages == 0
    assert head.peak_pages <= pages


@given(LENGTHS, st.integers(6, 40), st.integers(1, 5), st.sampled_from([4, 16, 64]))
# A prompt with one token to go overtakes nobody who has been idle for longer.
@example([(1, 2), (5, 1)], 6, 2, 4)
@example([(4, 2), (5, 1)], 6, 2, 4)
@examples(60)
def test_steps_are_filled_as_the_engine_fills_them(lengths, pages, in_flight, prefill_tokens):
    """Turn by turn the same rows, until somebody loses pages: the engine may find its old pages again, the twin not."""
    real = Scheduler(
        PagePool(pages, 16),
        EngineOptions(max_context=10_000, num_microbatches=in_flight, prefill_tokens=prefill_tokens, max_batch=8),
    )
    head = SimulatedScheduler(pages, 16, in_flight, prefill_tokens, 8)
    flight: deque = deque()
    for rank, (prompt, output) in enumerate(lengths):
        head.add(request(rank, prompt, output))
        # No two prompts share a token, since a simulated head knows no common prefixes.
        tokens = list(range(1000 * rank, 1000 * rank + prompt))
        real.add(RealSequence(Request(str(rank), tuple(tokens), Sampling(max_tokens=output)), rank, tokens))
    left = len(lengths)
    while left:
        turns = (head.turn(), real.turn(in_flight)) if len(flight) < in_flight else (None, None)
        if turns == (None, None):
            mine, theirs = flight.popleft()
            left -= len(head.returned(mine)[1])
            for share in theirs.shares:
                if share.samples:
                    give(real, share.sequence)
            continue
        mine, theirs = turns
        assert mine is not None
        assert theirs is not None
        assert head.preemptions == real.preemptions
        if head.preemptions:
            return
        assert rows_of(mine) == sorted((share.start, share.length) for share in theirs.shares)
        assert sorted(s.rank for s in mine.sampling) == sorted(s.sequence.arrival for s in theirs.shares if s.samples)
        flight.append(turns)


def rows_of(turn: Turn) -> list[tuple[int, int]]:
    """(first token computed, how many) of each row."""
    prompts = list(turn.load.chunks)
    decodes = [(sequence.tokens - 1, 1) for sequence in turn.sampling[: int(turn.load.decodes)]]
    return sorted([*prompts, *decodes])


def give(real: Scheduler, sequence: RealSequence) -> None:
    """A token that nobody else has."""
    sequence.tokens.append(10**6 + 1000 * sequence.arrival + sequence.num_emitted)
    real.received(sequence, 1)
    if sequence.num_emitted == sequence.request.sampling.max_tokens:
        real.end(sequence)


def test_the_first_in_rank_is_never_thrown_out():
    head = SimulatedScheduler(5, 16, 1, 512, 8)
    first, second = request(0, 16, 60), request(1, 16, 60)
    assert play(head, [first, second], 1) == [0, 1]
    assert head.preemptions > 0
    assert first.first_s == inf


def test_what_a_broken_pipeline_held_starts_over_with_what_was_emitted():
    head = SimulatedScheduler(40, 16, 2, 512, 8)
    one = request(0, 20, 5)
    head.add(one)
    head.returned(head.turn())
    head.turn()
    (lost,) = head.give_up()
    assert lost is one
    assert (lost.tokens, lost.computed, lost.room, lost.runs) == (21, 0, 0, False)
    head.check()
    assert head.used_pages == 0
    assert play(SimulatedScheduler(40, 16, 2, 512, 8), [lost], 2) == [0]
    assert lost.tokens == pytest.approx(25)
