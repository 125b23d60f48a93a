"""The budget of KV pages: who holds which, which can be used again, which may be thrown away. No tensors here.

Every page is in exactly one of three states:

    free      nobody needs its content
    held      one or more sequences have it in their page table (counted)
    idle      nobody holds it, but its content is known by a digest and may be wanted again; evicted oldest first

A digest names the content of a page *and of everything before it*: digest k hashes digest k-1 and the tokens of page
k. So equal digests mean equal prefixes, and a prompt's longest cached prefix is found page by page. A partly filled
last page of a prompt can be published too; whoever finds it must copy it before writing (copy-on-write).
"""

from array import array
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from hashlib import blake2b

ROOT = b""
"""The digest before the first page."""


def page_digest(parent: bytes, tokens: Sequence[int]) -> bytes:
    """Digest of a page that holds `tokens` and follows the page `parent`. 128 bits: collisions must not happen,
    since they would show one client's context to another."""
    return blake2b(array("q", tokens).tobytes(), key=parent, digest_size=16).digest()


class PagePool:
    """Pages 0..num_pages-1 of `page_size` tokens. Never hands out a page that somebody holds."""

    def __init__(self, num_pages: int, page_size: int) -> None:
        self.num_pages = num_pages
        self.page_size = page_size
        self._free = list(range(num_pages - 1, -1, -1))
        self._holders = [0] * num_pages
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._digest_of: dict[int, bytes] = {}
        self._page_of: dict[bytes, int] = {}

    @property
    def available(self) -> int:
        """Pages that `allocate` could hand out now."""
        return len(self._free) + len(self._idle)

    @property
    def num_idle(self) -> int:
        return len(self._idle)

    def pages_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.page_size)

    def holders(self, page: int) -> int:
        return self._holders[page]

    def find(self, digest: bytes) -> int | None:
        return self._page_of.get(digest)

    def match(self, digests: Iterable[bytes]) -> list[int]:
        """The pages of the longest published prefix of `digests`. They are not held yet."""
        found: list[int] = []
        for digest in digests:
            page = self._page_of.get(digest)
            if page is None:
                break
            found.append(page)
        return found

    def allocate(self, count: int) -> list[int]:
        """Take `count` pages, evicting idle ones if it must. The caller has asked `available` first."""
        if count > self.available:
            raise RuntimeError(f"Asked for {count} pages with {self.available} available: the scheduler over-commits.")
        while len(self._free) < count:
            page, _ = self._idle.popitem(last=False)
            self._forget(page)
            self._free.append(page)
        pages = [self._free.pop() for _ in range(count)]
        for page in pages:
            self._holders[page] = 1
        return pages

    def retain(self, pages: Iterable[int]) -> None:
        """One more holder for pages that are held or idle."""
        for page in pages:
            self._holders[page] += 1
            self._idle.pop(page, None)

    def release(self, pages: Sequence[int]) -> None:
        """One holder less. Late pages become idle first, so that the beginning of a prefix is evicted last."""
        for page in reversed(pages):
            self._holders[page] -= 1
            if self._holders[page] == 0:
                if page in self._digest_of:
                    self._idle[page] = None
                else:
                    self._free.append(page)

    def publish(self, page: int, digest: bytes) -> None:
        """Let others find a held page. The first page published under a digest keeps it."""
        if digest in self._page_of:
            return
        self._forget(page)
        self._digest_of[page] = digest
        self._page_of[digest] = page

    def withdraw(self, pages: Iterable[int]) -> None:
        """Nobody finds these held pages any more: what they were to hold never came."""
        for page in pages:
            self._forget(page)

    def make_private(self, page: int) -> bool:
        """Whether the only holder may overwrite the page; if so nobody finds it any more."""
        if self._holders[page] != 1:
            return False
        self._forget(page)
        return True

    def _forget(self, page: int) -> None:
        digest = self._digest_of.pop(page, None)
        if digest is not None:
            del self._page_of[digest]

    def check(self, tables: Iterable[Sequence[int]]) -> None:
        """Raise AssertionError unless the books agree with the page tables of all sequences."""
        held = Counter(page for table in tables for page in table)
        assert self._holders == [held[page] for page in range(self.num_pages)], "holder counts disagree with the tables"
        states = sorted([*self._free, *self._idle, *held])
        assert states == list(range(self.num_pages)), "a page is lost or in two states"
        assert {d: p for p, d in self._digest_of.items()} == self._page_of, "digests and pages disagree"
        assert not set(self._free) & set(self._digest_of), "a free page is still published"
        assert set(self._idle) <= set(self._digest_of), "an idle page cannot be found"
