"""How many guesses are made, and whose."""

from dataclasses import dataclass, field

import pytest

from muster.serve.guess.acceptance import expected_tokens
from muster.serve.guess.guesser import Prospect
from muster.serve.guess.guessing import TRY_AGAIN, Guessing
from muster.serve.guess.ngrams import NgramGuesser
from muster.serve.guess.trip import TripCost
from muster.serve.sequence import Sequence
from muster.spec.request import Request


@dataclass
class Always:
    """Guesses zeros."""

    kind: str = "zeros"
    guess_s: float = 0.0
    forgotten: list[str] = field(default_factory=list)

    def prospect(self, sequence: Sequence) -> Prospect:
        return Prospect(self.kind, 31, self.guess_s)

    def guess(self, sequence: Sequence, count: int) -> tuple[int, ...]:
        return (0,) * count

    def forget(self, sequence: Sequence) -> None:
        self.forgotten.append(sequence.request.id)


def sequence(name: str = "one", tokens: tuple[int, ...] = (1, 2)) -> Sequence:
    return Sequence(Request(name, tokens), 0, list(tokens))


class World:
    """A ring whose passes take `fixed_s` and `position_s` for each position."""

    def __init__(self, *guessers: Always, fixed_s: float, position_s: float) -> None:
        self.now_s = 0.0
        self.guessing = Guessing(guessers, lambda: self.now_s)
        self._fixed_s, self._position_s, self._steps = fixed_s, position_s, 0

    def passes(self, count: int, right: float, one: Sequence | None = None) -> list[int]:
        """Guesses in each; of every ten `right` tenths are right, one after the other."""
        one, made, luck = one or sequence(), [], 0.0
        for _ in range(count):
            guesses = self.guessing.guess(one, 31, False)
            self.guessing.sent(self._steps, 1 + len(guesses))
            self.now_s += self._fixed_s + self._position_s * (1 + len(guesses))
            self.guessing.returned(self._steps)
            self._steps += 1
            accepted = 0
            for _guess in guesses:
                luck += right
                if luck < 1:
                    break
                luck -= 1
                accepted += 1
            self.guessing.judged(one, len(guesses), accepted)
            made.append(len(guesses))
        return made


def test_guesses_that_are_right_become_many_where_passes_are_long():
    made = World(Always(), fixed_s=0.2, position_s=0.001).passes(60, right=0.9)
    assert 10 < made[-1] <= 31


def test_guesses_that_cost_as_much_as_a_pass_are_few():
    made = World(Always(), fixed_s=0.001, position_s=0.01).passes(300, right=0.5)
    assert sum(made[100:]) <= 4


def test_a_guesser_that_is_never_right_goes_silent_and_is_tried_again_now_and_then():
    world = World(Always(), fixed_s=0.01, position_s=0.002)
    made = world.passes(400, right=0.0)
    assert 200 // TRY_AGAIN <= sum(made[200:]) <= 200 // TRY_AGAIN + 2
    assert max(made[200:]) == 1
    assert max(world.passes(400, right=1.0)) > 5


def test_a_guesser_that_takes_longer_than_it_saves_goes_silent():
    made = World(Always(guess_s=0.5), fixed_s=0.1, position_s=0.001).passes(100, right=0.8)
    assert sum(made[20:]) <= 2


def test_the_guesser_that_brings_more_speaks():
    good, bad = Always("good", 0.001), Always("bad")
    world = World(bad, good, fixed_s=0.2, position_s=0.002)
    one = sequence()
    for _ in range(40):
        guesses = world.guessing.guess(one, 31, False)
        right = len(guesses) if world.guessing._kinds.get("one") == "good" else 0
        world.guessing.judged(one, len(guesses), right)
    world.guessing.guess(one, 31, False)
    assert world.guessing._kinds["one"] == "good"


def test_what_was_seen_of_one_sequence_counts_for_it_more_than_for_others():
    world = World(Always(), fixed_s=0.2, position_s=0.01)
    world.passes(30, right=0.95, one=sequence("easy"))
    hard = world.passes(30, right=0.0, one=sequence("hard"))
    assert hard[-1] < hard[0]
    assert world.passes(1, right=0.95, one=sequence("easy"))[0] > hard[-1]


def test_nobody_guesses_while_others_keep_the_ring_busy_or_where_no_room_is():
    guessing = World(Always(), fixed_s=1.0, position_s=0.0).guessing
    assert guessing.guess(sequence(), 31, True) == ()
    assert guessing.guess(sequence(), 0, False) == ()
    assert guessing.guess(sequence(), 3, False) == (0, 0, 0)


def test_what_ended_is_forgotten():
    guesser = Always()
    world = World(guesser, fixed_s=0.2, position_s=0.001)
    world.passes(3, right=1.0)
    world.guessing.forget(sequence())
    assert guesser.forgotten == ["one"]
    assert world.guessing._trials == world.guessing._kinds == {}
    counts = world.guessing.counts()
    assert counts.passes == 3
    assert counts.tokens == 3 + counts.accepted


@pytest.mark.parametrize(("acceptance", "guesses", "expected"), [(0.0, 5, 1.0), (1.0, 5, 6.0), (0.5, 2, 1.75)])
def test_a_pass_brings_one_token_and_what_is_accepted(acceptance, guesses, expected):
    assert expected_tokens(acceptance, guesses) == expected


def test_a_cost_is_fitted_to_what_passes_took():
    cost = TripCost()
    for index in range(200):
        positions = 1 + index % 8
        cost.took(positions, 0.2 + 0.005 * positions)
    assert cost.seconds(1) == pytest.approx(0.205, rel=0.01)
    assert cost.seconds(20) == pytest.approx(0.3, rel=0.02)


def test_a_cost_that_was_seen_for_one_length_alone_is_careful_about_others():
    cost = TripCost()
    assert cost.seconds(1) == cost.seconds(9) == 1.0
    for _ in range(50):
        cost.took(1, 0.2)
    assert cost.seconds(1) == pytest.approx(0.2)
    assert 0.2 < cost.seconds(9) < 0.3


def guesses_of(tokens: list[int], count: int = 4) -> tuple[tuple[int, ...], str] | None:
    guesser, one = NgramGuesser(), sequence(tokens=tuple(tokens))
    prospect = guesser.prospect(one)
    return None if prospect is None else (guesser.guess(one, count), prospect.kind)


def test_what_followed_before_is_what_will_follow():
    assert guesses_of([1, 2, 3, 4, 5, 6, 1, 2, 3]) == ((4, 5, 6, 1), "n-gram of 3")
    assert guesses_of([9, 1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3]) == ((5, 1, 2, 3), "n-gram of 3")  # the last time counts
    assert guesses_of([1, 2, 3, 4, 5, 6]) is None
    assert guesses_of([1, 2]) is None


def test_a_loop_is_read_on_in_itself():
    assert guesses_of([7, 7, 7, 7], 6) == ((7,) * 6, "n-gram of 3")
    assert guesses_of([1, 2, 3, 1, 2, 3, 1, 2, 3], 7) == ((1, 2, 3, 1, 2, 3, 1), "n-gram of 5")


def test_an_index_grows_with_its_sequence():
    guesser, one = NgramGuesser(), sequence(tokens=(1, 2, 3, 4))
    assert guesser.prospect(one) is None
    one.tokens += [9, 2, 3, 4]
    assert guesser.prospect(one) is not None
    assert guesser.guess(one, 2) == (9, 2)
    guesser.forget(one)
    assert guesser._indexes == {}
