"""Which pages move, by hand and by the law of the ring."""

from random import Random

import numpy as np
import pytest

from muster.serve.swap import Residency, StepPages
from muster.spec.plan import ServeSettings
from muster.wire.messages.generate import Row


def step(*pages: int, fresh: tuple[int, ...] = (), written: tuple[int, ...] = ()) -> StepPages:
    return StepPages(*(np.array(sorted(each), dtype=np.int64) for each in (pages, fresh, written)))


def write(books: Residency, *pages: int) -> None:
    books.enter(step(*pages, fresh=pages, written=pages))


@pytest.mark.parametrize(("pages", "swapped", "microbatches"), [(200, 50, 16), (96, 16, 6), (120, 40, 4), (60, 5, 12)])
def test_memory_of_a_microbatch_follows_the_law_and_no_step_waits_for_it(pages, swapped, microbatches):
    work = ServeSettings(pages, 16, microbatches, swap_pages=swapped)
    each = work.all_pages // microbatches
    assert each == pytest.approx((pages - 2 * swapped) / microbatches + swapped, rel=0.05)
    books = Residency(work.all_pages, pages, microbatches)
    groups = [range(index * each, (index + 1) * each) for index in range(microbatches)]
    for group in groups:
        write(books, *group)
        books.foresee()
    most_in = 0
    for turn in range(20 * microbatches):
        group = groups[turn % microbatches]
        late = books.enter(step(*group, written=group[-1:]))
        moves = books.foresee()
        books.check()
        if turn >= 10 * microbatches:
            assert len(late.in_pages) == 0, "a step waits for its pages"
            most_in = max(most_in, len(moves.in_pages))
    assert most_in <= 1.05 * swapped, "more than a slice moves in one step"


def test_what_nobody_wrote_yet_is_not_copied_and_what_did_not_change_is_written_out_once():
    books = Residency(6, 2, 3)
    assert books.enter(step(0, 1, fresh=(0, 1), written=(0, 1))).count == 0
    first = books.enter(step(2, 3, fresh=(2, 3), written=(2, 3)))
    assert sorted(first.out_pages) == [0, 1]
    assert len(first.in_pages) == 0
    back = books.enter(step(0, 1))
    assert sorted(back.out_pages) == [2, 3]
    assert sorted(back.in_pages) == [0, 1]
    again = books.enter(step(2, 3, written=(3,)))
    assert len(again.out_pages) == 0, "host memory has them already"
    assert list(books.enter(step(0, 1)).out_pages) == [3]
    books.check()


def test_a_page_that_changes_hands_is_not_brought_in_for_its_new_owner():
    books = Residency(4, 2, 2)
    write(books, 0, 1)
    write(books, 2, 3)
    moves = books.enter(step(0, 1, fresh=(1,), written=(1,)))
    assert list(moves.in_pages) == [0]
    books.enter(step(2, 3))
    assert sorted(books.enter(step(0, 1)).in_pages) == [0, 1], "what the new owner wrote is kept"
    books.check()


def test_a_step_that_waits_already_is_brought_in_first():
    books = Residency(8, 4, 4)
    for pages in ((0, 1), (2, 3), (4, 5), (6, 7)):
        write(books, *pages)
    books.foresee(step(2, 3))
    assert (books.frame_of[[2, 3]] >= 0).all(), "they come before what is only likely to follow"
    assert books.enter(step(2, 3)).count == 0
    books.check()


@pytest.mark.parametrize("knows", [True, False])
def test_where_steps_overtake_each_other_it_helps_to_know_which_one_waits(knows):
    draw, order = Random(1), []
    for _ in range(60):
        turn = list(range(6))
        for _ in range(3):
            place = draw.randrange(5)
            turn[place], turn[place + 1] = turn[place + 1], turn[place]
        order += turn
    books, late = Residency(120, 60, 6), 0
    for number, index in enumerate(order):
        pages = range(20 * index, 20 * index + 20)
        fresh = tuple(pages) if number < 6 else ()
        came = books.enter(step(*pages, fresh=fresh, written=fresh or pages[-1:]))
        late += len(came.in_pages) if number > 18 else 0
        following = order[number + 1 : number + 2] if knows else []
        books.foresee(*(step(*range(20 * other, 20 * other + 20)) for other in following))
        books.check()
    assert (late == 0) is knows


def test_a_step_with_more_pages_than_frames_is_refused():
    books = Residency(5, 2, 2)
    with pytest.raises(RuntimeError, match="too large"):
        write(books, 0, 1, 2)


def test_rows_say_what_they_want_and_what_they_write():
    decode = Row(0, 9, 1, (4, 5, 6), True)
    begun = Row(1, 4, 6, (7, 8, 9), False)
    copied = Row(2, 2, 3, (1, 2), True)
    found = StepPages.of([decode, begun, copied], [(3, 1)], 4)
    assert found.named.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert found.fresh.tolist() == [1, 2, 8, 9]
    assert found.written.tolist() == [1, 2, 6, 8, 9]


def test_pages_that_nobody_uses_any_more_go_before_those_that_come_around():
    books = Residency(9, 6, 2)
    write(books, 8)
    for _ in range(6):
        for pages in ((0, 1), (2, 3), (4,)):
            books.enter(step(*pages, fresh=pages if books.frame_of[pages[0]] < 0 else (), written=pages))
            books.foresee()
    write(books, 5)
    assert books.frame_of[8] < 0, "it was not used for many rounds"
