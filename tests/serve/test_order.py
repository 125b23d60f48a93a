"""Steps run once, in any order that keeps what they need before them."""

from itertools import permutations
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.errors import ProtocolViolation
from muster.serve.order import MAX_AHEAD, StepOrder, UnderWay


def taken(order: StepOrder[int]) -> list[int]:
    found = []
    while (one := order.take()) is not None:
        found.append(one)
    return found


def test_a_late_step_delays_only_those_that_need_it():
    order: StepOrder[int] = StepOrder()
    for number, after in ((0, -1), (1, -1), (3, 2), (4, 0)):
        order.add(number, after, number)
    assert taken(order) == [0, 1, 4]
    order.add(2, -1, 2)
    assert taken(order) == [2, 3]
    assert order.floor == 5


@given(st.lists(st.integers(1, 5), min_size=1, max_size=30), st.integers())
def test_whatever_order_they_come_in_all_run_once_and_behind_what_they_need(back: list[int], seed: int):
    steps = [(number, max(-1, number - far)) for number, far in enumerate(back)]
    arrivals = steps * 2
    Random(seed).shuffle(arrivals)
    order, ran = StepOrder[int](), list[int]()
    for number, after in arrivals:
        order.add(number, after, number)
        ran += taken(order)
    assert sorted(ran) == list(range(len(steps)))
    places = {number: place for place, number in enumerate(ran)}
    assert all(places[before] < places[number] for number, after in steps for before in range(after + 1))


def test_a_step_that_comes_again_is_known_whether_it_waits_or_has_run():
    order: StepOrder[str] = StepOrder()
    assert order.add(0, -1, "first")
    assert not order.add(0, -1, "again")
    assert order.take() == "first"
    assert not order.add(0, -1, "once more")
    assert order.take() is None


@pytest.mark.parametrize(("number", "after"), [(MAX_AHEAD, -1), (3, 3), (3, 9), (3, -2), (-1, -1)])
def test_an_order_that_cannot_be_is_a_violation(number: int, after: int):
    with pytest.raises(ProtocolViolation):
        StepOrder[int]().add(number, after, number)


def test_what_is_not_complete_is_passed_over():
    order: StepOrder[int] = StepOrder()
    for number in range(3):
        order.add(number, -1, number)
    assert order.take(lambda item: item != 0) == 1
    assert order.take() == 0


def test_whoever_gets_a_page_waits_for_all_that_may_still_use_it():
    steps = {3, 5}
    books = UnderWay(steps)
    books.leave([7, 8], 3)
    books.leave([7], 5)
    books.leave([9], 4)
    assert books.before_writing([7, 8]) == 5
    assert books.before_writing([9]) == -1, "its last step had come back"
    steps.remove(5)
    assert books.before_writing([7]) == 3, "what used it before the last one that did is still under way"
    steps.remove(3)
    assert books.before_writing([7, 8]) == -1


def test_whoever_finds_a_page_waits_for_the_step_that_writes_it():
    steps = {2, 6}
    books = UnderWay(steps)
    books.write(1, 4)
    books.write(2, 6)
    assert books.before_reading([1]) == -1
    assert books.before_reading([1, 2]) == 6


def test_a_slot_is_given_away_behind_the_step_that_freed_it():
    steps = {2, 6}
    books = UnderWay(steps)
    books.release([4], 6)
    assert (books.before_admitting(4), books.before_admitting(5)) == (6, -1)


def test_no_order_of_arrival_is_special():
    for arrivals in permutations(range(4)):
        order, ran = StepOrder[int](), list[int]()
        for number in arrivals:
            order.add(number, max(-1, number - 2), number)
            ran += taken(order)
        assert sorted(ran) == [0, 1, 2, 3]
