"""A cache with more pages than its device has frames: the rest lies in host memory, and moves while steps compute.

`swap` decides, `model/host_pages` copies, one thread beside the computing one does so in order. Only steps that name
a page which is still under way wait, and the answers are the same to the last bit. Bound to one thread that computes.
"""

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from muster.model.cache import HeadSizes, KVCache, Places
from muster.model.host_pages import HostPages, Ints
from muster.model.stage import Stage
from muster.serve.swap import Moves, Residency, StepPages
from muster.spec.plan import ServeSettings
from muster.wire.messages.generate import Row


class MovesPages(Protocol):
    """See `HostPages`."""

    def computed(self) -> Any: ...

    def move(self, after: Any, out: tuple[Ints, Ints], into: tuple[Ints, Ints]) -> Any: ...

    def await_move(self, mark: Any) -> None: ...


@dataclass(slots=True)
class SwapStats:
    out_pages: int = 0
    in_pages: int = 0
    moving_s: float = 0.0
    """In which the copying thread was at work. On CUDA it only asks for copies."""
    waited_s: float = 0.0
    """In which steps waited for it."""

    @property
    def hidden_share(self) -> float:
        """Of the time that copying took."""
        return 1.0 - min(1.0, self.waited_s / self.moving_s) if self.moving_s else 1.0


class Swap:
    """The books of a cache and the thread that carries out what they decide."""

    def __init__(self, residency: Residency, host: MovesPages) -> None:
        self.residency = residency
        self.stats = SwapStats()
        self._host = host
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="swap")
        self._moving: dict[int, Future[Any]] = {}
        self._last = 0
        self._move_of = np.zeros(residency.num_frames, dtype=np.int64)
        """For each frame the last move that touches it."""
        self._coming: StepPages | None = None

    def enter(self, step: StepPages) -> Places:
        """Returns once all pages of the step lie in frames; what the next one wants begins to move then."""
        self._submit(self.residency.enter(step))
        began_s = time.perf_counter()
        frames = self.residency.frame_of[step.named]
        self._await(int(self._move_of[frames].max(initial=0)))
        self.stats.waited_s += time.perf_counter() - began_s
        return self.residency.frame_of

    def foresee(self) -> None:
        """To be called when the copies of the step are asked for, before it runs."""
        self._submit(self.residency.foresee(self._coming))
        self._coming = None

    def expect(self, coming: StepPages) -> None:
        """The step that comes after the next one to enter, where it is known."""
        self._coming = coming

    def _submit(self, moves: Moves) -> None:
        if not moves.count:
            return
        self.stats.out_pages += len(moves.out_pages)
        self.stats.in_pages += len(moves.in_pages)
        self._last += 1
        self._move_of[moves.out_frames] = self._last
        self._move_of[moves.in_frames] = self._last
        self._moving[self._last] = self._thread.submit(self._move, self._host.computed(), moves)

    def _move(self, after: Any, moves: Moves) -> Any:
        began_s = time.perf_counter()
        mark = self._host.move(after, (moves.out_pages, moves.out_frames), (moves.in_pages, moves.in_frames))
        self.stats.moving_s += time.perf_counter() - began_s
        return mark

    def _await(self, last: int) -> None:
        """They move in order, so whoever waits for one has waited for those before."""
        for number in [number for number in self._moving if number <= last]:
            mark = self._moving.pop(number).result()
            self._host.await_move(mark)


class SwappingCache(KVCache):
    """`num_frames` pages in the device's memory and all `num_pages` in the host's."""

    def __init__(
        self,
        layers: Sequence[HeadSizes],
        num_pages: int,
        num_frames: int,
        page_size: int,
        dtype: torch.dtype,
        device: torch.device,
        round_steps: int,
        kept: str = "",
    ) -> None:
        super().__init__(layers, num_frames, page_size, dtype, device, kept)
        self.num_pages = num_pages
        self.host = HostPages(self, num_pages)
        self.swap = Swap(Residency(num_pages, num_frames, round_steps), self.host)

    def enter(self, rows: Sequence[Row], copies: Sequence[tuple[int, int]]) -> Places:
        places = self.swap.enter(StepPages.of(rows, copies, self.page_size))
        self.copy_pages([(int(places[source]), int(places[target])) for source, target in copies])
        self.swap.foresee()
        return places

    def expect(self, rows: Sequence[Row], copies: Sequence[tuple[int, int]]) -> None:
        pages = [page for some in (*(row.pages for row in rows), *copies) for page in some]
        if pages and min(pages) >= 0 and max(pages) < self.num_pages:
            self.swap.expect(StepPages.of(rows, copies, self.page_size))


def cache_of(stage: Stage, work: ServeSettings) -> KVCache:
    """What a pipeline with these settings keeps at `stage`. Raises `MachineTrouble` where memory is not there."""
    if work.all_pages == work.num_pages:
        return stage.new_cache(work.num_pages, work.page_size)
    sizes, steps = stage.head_sizes, work.num_microbatches
    return SwappingCache(
        sizes, work.all_pages, work.num_pages, work.page_size, stage.dtype, stage.device, steps, stage.cache_format
    )
