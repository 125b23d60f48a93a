import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from muster.serve.pages import ROOT, PagePool, page_digest
from tests.examples import examples

NUM_PAGES, PAGE_SIZE = 6, 2


def test_a_page_without_holders_is_found_again_by_its_content():
    pool = PagePool(4, 2)
    page = pool.allocate(1)[0]
    digest = page_digest(ROOT, (1, 2))
    pool.publish(page, digest)
    pool.release([page])
    assert pool.match([digest]) == [page]
    assert pool.available == 4
    pool.retain([page])
    assert pool.available == 3
    pool.check([[page]])


def test_the_end_of_the_oldest_prefix_is_evicted_first():
    pool = PagePool(3, 1)
    digests = [page_digest(ROOT, (1,)), page_digest(page_digest(ROOT, (1,)), (2,))]
    pages = pool.allocate(2)
    for page, digest in zip(pages, digests, strict=True):
        pool.publish(page, digest)
    pool.release(pages)
    pool.allocate(2)
    assert pool.match(digests) == pages[:1]


def test_equal_pages_after_different_prefixes_have_different_digests():
    assert page_digest(page_digest(ROOT, (1,)), (5,)) != page_digest(page_digest(ROOT, (2,)), (5,))


def test_more_than_there_is_cannot_be_allocated():
    pool = PagePool(2, 2)
    pool.allocate(1)
    with pytest.raises(RuntimeError, match="over-commits"):
        pool.allocate(2)
    assert pool.available == 1


def test_a_shared_page_cannot_become_private():
    pool = PagePool(2, 2)
    pages = pool.allocate(1)
    pool.retain(pages)
    assert not pool.make_private(pages[0])
    pool.release(pages)
    assert pool.make_private(pages[0])


def test_check_notices_a_table_that_the_books_do_not_know():
    pool = PagePool(2, 2)
    pages = pool.allocate(1)
    pool.check([pages])
    with pytest.raises(AssertionError, match="holder counts"):
        pool.check([])


class Pool(RuleBasedStateMachine):
    """Random holders; a model remembers what each page holds, so that a stale match shows."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = PagePool(NUM_PAGES, PAGE_SIZE)
        self.tables: list[list[int]] = []
        self.content: dict[int, bytes] = {}

    @rule(count=st.integers(1, NUM_PAGES))
    def allocate(self, count: int) -> None:
        if count > self.pool.available:
            return
        held = {page for table in self.tables for page in table}
        pages = self.pool.allocate(count)
        assert not held & set(pages)
        for page in pages:
            self.content[page] = b""
        self.tables.append(pages)

    @precondition(lambda self: self.tables)
    @rule(data=st.data(), number=st.integers(0, 3))
    def publish(self, data: st.DataObject, number: int) -> None:
        page = data.draw(st.sampled_from(data.draw(st.sampled_from(self.tables))))
        digest = page_digest(ROOT, (number,))
        if self.pool.find(digest) is None:
            self.content[page] = digest
        self.pool.publish(page, digest)

    @rule(number=st.integers(0, 3))
    def reuse(self, number: int) -> None:
        digest = page_digest(ROOT, (number,))
        pages = self.pool.match([digest])
        assert all(self.content[page] == digest for page in pages)
        if pages:
            self.pool.retain(pages)
            self.tables.append(pages)

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        table = self.tables.pop(data.draw(st.integers(0, len(self.tables) - 1)))
        self.pool.release(table)

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def make_private(self, data: st.DataObject) -> None:
        page = data.draw(st.sampled_from(data.draw(st.sampled_from(self.tables))))
        sole = self.pool.holders(page) == 1
        assert self.pool.make_private(page) is sole
        if sole:
            self.content[page] = b""

    @invariant()
    def books_agree(self) -> None:
        self.pool.check(self.tables)


Pool.TestCase.settings = examples(60, stateful_step_count=30)
TestPool = Pool.TestCase
