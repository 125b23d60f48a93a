"""How much of the room for grammars one client may have in use. Knows no grammar's meaning and no pipeline.

The last stage holds some grammars at once and no more. Without shares one client with many large ones could have all of
them, and every other client's new one would be refused until that one ends.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from muster.errors import LimitReached
from muster.spec.sampling import MAX_GRAMMARS, MAX_GRAMMARS_BYTES


class GrammarShares:
    """The grammars of all requests that are being answered, by whose they are."""

    def __init__(self) -> None:
        self._in_use: dict[str, Counter[str]] = {}
        """Of each owner: how many requests have the grammar."""

    @contextmanager
    def use(self, owner: str, grammar: str) -> Iterator[None]:
        """While a request is answered. Raises `LimitReached` where too little would be left for the others.

        What one has in use may be no more than what is then left (a dynamic threshold, as switches share buffers
        among their ports): one alone gets half of all, two get a third each, and however many there are, another one
        finds room. One grammar at a time always may. Requests without an owner are one person's.
        """
        if not grammar or not owner:
            yield
            return
        mine = self._in_use.setdefault(owner, Counter())
        if mine and grammar not in mine and not self._leaves_enough(owner, grammar):
            raise LimitReached(
                "Too many different schemas or grammars of this key are in use at once; wait until some of its "
                "answers are complete."
            )
        mine[grammar] += 1
        try:
            yield
        finally:
            mine[grammar] -= 1
            if not mine[grammar]:
                del mine[grammar]
            if not mine:
                del self._in_use[owner]

    def _leaves_enough(self, owner: str, grammar: str) -> bool:
        mine = {*self._in_use[owner], grammar}
        used = mine.union(*self._in_use.values())
        return len(mine) <= MAX_GRAMMARS - len(used) and _nbytes(mine) <= MAX_GRAMMARS_BYTES - _nbytes(used)

    def check(self) -> None:
        """Raise AssertionError unless only what is in use is counted."""
        assert all(mine and min(mine.values()) > 0 for mine in self._in_use.values()), "something is counted for nobody"


def _nbytes(grammars: set[str]) -> int:
    return sum(len(grammar.encode()) for grammar in grammars)
