"""Books of a boundary: both ends sign the same of the same rows, whatever came in which steps."""

import random

import pytest
import torch
from blake3 import blake3

from muster.spec.receipt import TOKENS_PER_BLOCK
from muster.verify.book import MAX_UNSIGNED_BYTES, BoundaryBook, RowSpan, Unsigned
from muster.verify.fingerprint import key_of, places, taken
from muster.verify.merkle import block_leaf, root_of

NAME, OTHER = "ab" * 16, "cd" * 16
ROWS = torch.randn(300, 24, generator=torch.Generator().manual_seed(1))


def put(book: BoundaryBook, start: int, end: int, slot: int = 0, guesses: int = 0, rows: torch.Tensor = ROWS) -> None:
    book.saw([RowSpan(slot, start, end, end - guesses)], rows[start:end].numpy().tobytes(), "float32")


def fed(steps: list[tuple[int, int]], rows: torch.Tensor = ROWS) -> BoundaryBook:
    book = BoundaryBook(4)
    book.begin(0, NAME)
    for start, end in steps:
        put(book, start, end, rows=rows)
    return book


def ended(book: BoundaryBook) -> list[Unsigned]:
    """Nothing has come since the last look."""
    return [*book.due(), *book.due()]


def counts(signed: Unsigned) -> list[int]:
    return [block.count for block in signed.blocks]


def test_the_same_rows_give_the_same_blocks_whatever_the_steps() -> None:
    generator = random.Random(3)
    cuts = sorted(generator.sample(range(1, 200), 20))
    ragged = list(zip([0, *cuts], [*cuts, 200], strict=True))
    (one,), (other,) = fed([(0, 200)]).due(), fed(ragged).due()
    assert (one.blocks, one.root) == (other.blocks, other.root)
    assert counts(one) == [TOKENS_PER_BLOCK] * 6


def test_blocks_are_of_the_bytes_and_of_values_at_places_that_the_request_decides() -> None:
    (one,) = fed([(0, 200)]).due()
    for block in one.blocks:
        rows = ROWS[block.start : block.end]
        assert block.digest == blake3(rows.numpy().tobytes()).digest()
        assert block.values == taken(rows, places(key_of(NAME, 4), range(block.start, block.end), 24))
    assert one.root == root_of([block_leaf(b.start, b.count, b.digest, b.values) for b in one.blocks])


def test_a_signature_waits_for_four_blocks_or_until_nothing_comes() -> None:
    book = fed([(0, 100)])
    assert book.due() == []
    (all_of_it,) = book.due()
    assert counts(all_of_it) == [32, 32, 32, 4]
    put(book, 100, 240)
    (rest,) = book.due()
    assert (rest.start, rest.end, rest.blocks[0].count) == (100, 224, 28)


def test_guesses_are_not_signed_until_they_are_known_to_be_right() -> None:
    book = fed([(0, 127)])
    put(book, 127, 131, guesses=3)
    (first,) = book.due()
    assert first.end == 128
    wrong = ROWS + 1
    put(book, 128, 132, guesses=3, rows=wrong)
    put(book, 129, 300)
    mended = ROWS.clone()
    mended[128] += 1
    expected = fed([(0, 128)])
    assert expected.due()[0].root == first.root
    put(expected, 128, 300, rows=mended)
    assert [one.root for one in ended(book)] == [one.root for one in ended(expected)]


def test_who_received_signs_the_cuts_of_who_sent_and_gets_to_the_same_root() -> None:
    sender, receiver = fed([(0, 200)]), fed([(0, 64), (64, 200)])
    for signed in ended(sender):
        agreed = receiver.agree(NAME, signed.start, counts(signed))
        assert agreed is not None
        assert (agreed.blocks, agreed.root) == (signed.blocks, signed.root)


@pytest.mark.parametrize("row", [0, 40, 190])
def test_one_changed_bit_between_them_leads_to_another_root(row: int) -> None:
    changed = ROWS.clone()
    changed[row, 3] = -changed[row, 3]
    (signed,) = fed([(0, 200)]).due()
    agreed = fed([(0, 200)], changed).agree(NAME, 0, counts(signed))
    assert agreed is not None
    assert agreed.root == signed.root if row >= signed.end else agreed.root != signed.root


def test_what_was_never_received_is_not_signed() -> None:
    (signed,) = fed([(0, 200)]).due()
    assert fed([(0, 100)]).agree(NAME, signed.start, counts(signed)) is None
    assert fed([(0, 200)]).agree(OTHER, signed.start, counts(signed)) is None
    assert fed([(0, 200)]).agree(NAME, 32, counts(signed)) is None
    for cuts in ([], [0], [-1], [32, 0, 32], [2**60]):
        assert fed([(0, 200)]).agree(NAME, 0, cuts) is None


def test_a_slot_that_goes_to_another_request_loses_nothing_of_the_first() -> None:
    book = fed([(0, 50)])
    book.begin(0, OTHER)
    put(book, 0, 40)
    ends = {one.request: one for one in ended(book)}
    assert (ends[NAME].end, ends[OTHER].end) == (50, 40)
    assert ends[NAME].root != ends[OTHER].root


def test_a_request_that_begins_again_is_signed_anew() -> None:
    book = fed([(0, 200)])
    (before,) = book.due()
    put(book, 0, 200)
    (again,) = book.due()
    assert (again.blocks, again.root) == (before.blocks, before.root)


def test_slots_without_a_name_and_empty_steps_are_passed_over() -> None:
    book = fed([])
    put(book, 0, 40, slot=5)
    book.saw([], b"", "float32")
    assert ended(book) == []


def test_rows_whose_other_end_never_answers_are_given_up_before_they_fill_the_memory() -> None:
    book = BoundaryBook(4)
    book.begin(0, NAME)
    book.begin(1, OTHER)
    row = bytes(2**14)
    for start in range(0, 2 * MAX_UNSIGNED_BYTES // len(row), 2**10):
        book.saw([RowSpan(0, start, start + 2**10, start + 2**10)], row * 2**10, "float32")
        assert book.agree(OTHER, 0, [32]) is None  # somebody looks now and then
        assert sum(page.nbytes for page in book._pages.values()) <= MAX_UNSIGNED_BYTES
    put(book, 0, 100, slot=1)
    assert book.agree(NAME, 0, [32]) is None
    assert book.agree(OTHER, 0, [32]) is not None
    book.begin(0, NAME)
    put(book, 0, 100)
    assert book.agree(NAME, 0, [32]) is not None


def test_where_a_root_was_lost_on_its_way_nothing_else_is_signed_of_that_request() -> None:
    receiver, sender = fed([(0, 300)]), fed([(0, 200), (200, 300)])
    first, *rest = ended(sender)
    for one in rest:
        assert receiver.agree(NAME, one.start, counts(one)) is None
    assert receiver.agree(NAME, first.start, counts(first)) is None
    assert receiver.due() == []
