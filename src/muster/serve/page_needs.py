"""How a waiting sequence would start: what of it is cached already, and what pages the rest takes. Decides nothing."""

from collections.abc import Collection
from dataclasses import dataclass

from muster.serve.pages import PagePool
from muster.serve.sequence import Sequence


@dataclass(slots=True)
class PageNeeds:
    """With these found pages, so many tokens known, so many pages more."""

    found: list[int]
    known: int
    copy_last: bool
    fresh: int
    idle: int
    """Found pages that are idle now: taking them lowers what is available."""


def needs_of(sequence: Sequence, pages: PagePool, step_pages: int) -> PageNeeds:
    """`step_pages`: so many one step can name."""
    size = pages.page_size
    sequence.extend_digests(size)
    if sequence.reusable is not None:
        # A page that was computed before has keys and values, but no logits: it stays with whole pages in front.
        found = pages.match(sequence.digests[: sequence.reusable // size])
        return _needs(sequence, pages, found, len(found) * size)
    found = pages.match(sequence.digests)
    known = len(found) * size
    tail = sequence.tail_digest(size) if len(found) == len(sequence.digests) else None
    tail_page = None if tail is None else pages.find(tail)
    if tail_page is not None:
        found.append(tail_page)
        known = len(sequence.tokens)
    # The last token always runs: its logits are wanted. Its page is then written, so it must not be shared.
    needs = _needs(sequence, pages, found, min(known, len(sequence.tokens) - 1))
    if needs.copy_last and pages.pages_for(len(sequence.tokens)) >= step_pages:
        # No step can name the page that would be copied beside all of the sequence's own.
        return _needs(sequence, pages, found[:-1], (len(found) - 1) * size)
    return needs


def _needs(sequence: Sequence, pages: PagePool, found: list[int], known: int) -> PageNeeds:
    shared = known < len(found) * pages.page_size
    copy_last = shared and pages.holders(found[-1]) > 0
    fresh = pages.pages_for(len(sequence.tokens)) - len(found) + copy_last
    return PageNeeds(found, known, copy_last, fresh, sum(pages.holders(page) == 0 for page in found))


def is_promised(sequence: Sequence, needs: PageNeeds, page_size: int, promised: Collection[bytes]) -> bool:
    """Whether a row of this turn computes the next page of this very prefix: one turn later it can be found."""
    if sequence.reusable is not None:
        return False
    if len(needs.found) < len(sequence.digests):
        return sequence.digests[len(needs.found)] in promised
    tail = sequence.tail_digest(page_size)
    return tail is not None and needs.known < len(sequence.tokens) - 1 and tail in promised
