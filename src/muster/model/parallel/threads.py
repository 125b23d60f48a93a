"""Members that are threads of one process: the twin of a process group for tests, rehearsals and the conformance check.

Arithmetic is that of any all-reduce: every member sees the same bits.
"""

from threading import Barrier, BrokenBarrierError

from torch import Tensor

from muster.errors import LinkDown

PATIENCE_S = 60.0


class _Table:
    """Where the members of one group lay down their parts."""

    def __init__(self, size: int) -> None:
        self.parts: list[Tensor | None] = [None] * size
        self.here = Barrier(size)


class ThreadGroup:
    """Implements `Group`."""

    def __init__(self, rank: int, table: _Table) -> None:
        self.rank, self.size = rank, len(table.parts)
        self._table = table

    def sum(self, x: Tensor) -> Tensor:
        first, *rest = self._exchange(x)
        total = first.clone()
        for other in rest:
            total += other
        return total

    def gather(self, x: Tensor) -> list[Tensor]:
        return self._exchange(x)

    def abort(self) -> None:
        """Whoever waits for this member, or begins to, gets `LinkDown`."""
        self._table.here.abort()

    def _exchange(self, x: Tensor) -> list[Tensor]:
        table = self._table
        table.parts[self.rank] = x
        try:
            table.here.wait(PATIENCE_S)
            parts = [one for one in table.parts if one is not None]
            table.here.wait(PATIENCE_S)  # nobody lays down the next before everybody has taken these
        except BrokenBarrierError as error:
            raise LinkDown("A member of the island has gone; its stage is lost.") from error
        return parts


def thread_groups(size: int) -> list[ThreadGroup]:
    """One for each member."""
    table = _Table(size)
    return [ThreadGroup(rank, table) for rank in range(size)]
