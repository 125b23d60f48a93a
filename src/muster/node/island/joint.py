"""A stage that others hold too, as the first member's engine or follower sees it: like one that it has alone.

Whatever runs here is first said to the other members, which run it in the same order, each on pages of its own.
"""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from muster.compress.registry import PLAIN
from muster.errors import LinkDown
from muster.model.batch import Batch
from muster.model.cache import Places
from muster.model.settings import running
from muster.model.stage import Stage
from muster.node.island.gathering import Island
from muster.wire.messages.generate import Row
from muster.wire.messages.island import IslandStep


class JointCache:
    """Implements `PagedCache`: this member's pages, and what the step that runs next does with everybody's."""

    def __init__(self, own: Any) -> None:
        self.own = own
        self.rows: tuple[Row, ...] = ()
        self.copies: tuple[tuple[int, int], ...] = ()

    @property
    def num_pages(self) -> int:
        return int(self.own.num_pages)

    @property
    def page_size(self) -> int:
        return int(self.own.page_size)

    @property
    def step_pages(self) -> int:
        return int(self.own.step_pages)

    def enter(self, rows: Sequence[Row], copies: Sequence[tuple[int, int]]) -> Places | None:
        self.rows, self.copies = tuple(rows), tuple(copies)
        places: Places | None = self.own.enter(rows, copies)
        return places

    def expect(self, rows: Sequence[Row], copies: Sequence[tuple[int, int]]) -> None:
        self.own.expect(rows, copies)


class JointStage:
    """Implements `RunsLayers`."""

    def __init__(self, stage: Stage) -> None:
        self.island: Island | None = None
        """Known once the stage is loaded, and a group before anything runs."""
        self._stage = stage
        self._sequence = 0
        self.is_first, self.is_last = stage.is_first, stage.is_last
        self.hidden_size, self.vocab_size = stage.hidden_size, stage.vocab_size
        self.dtype, self.device = stage.dtype, stage.device

    def run(self, batch: Batch, cache: JointCache, x: Tensor, look: Callable[[Tensor], None]) -> Tensor:
        island = self.island
        if island is None or island.group is None:
            raise LinkDown("The members of this stage have not found each other.")
        # Whoever may build a model in this process waits for this step before others are told to begin with it.
        with running():
            self._tell(island, cache, x)
            return self._stage.run(batch, cache.own, x, look, island.group)

    def _tell(self, island: Island, cache: JointCache, x: Tensor) -> None:
        if self.is_first:
            tokens, header, payload = tuple(x.tolist()), None, b""
        else:
            tokens, (header, packed) = (), PLAIN.encode(x)
            payload = bytes(packed)  # what is computed next may write over it before it has left
        step = IslandStep(
            epoch=island.assign.epoch,
            sequence=self._sequence,
            rows=cache.rows,
            copies=cache.copies,
            tokens=tokens,
            hidden=header,
        )
        self._sequence += 1
        island.tell(step, payload)
