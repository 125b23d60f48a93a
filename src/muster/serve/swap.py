"""Which pages of a stage lie in its device's memory, and which may move to the host's. No tensors, no threads here.

The head of the ring counts *pages*. A stage has fewer *frames* than that: places for pages in device memory. A page
lies in a frame, or in its own place in host memory, or in both with the same content (clean).

    page      0    1    2    3    4    5    6          frame_of  [ 2  -1   0   1  -1  -1  -1 ]
    frame     2    -    0    1    -    -    -          on host   [ .   x   .   x   x   .   . ]     5, 6: never written

What to move follows from the ring being a cycle: after a step its pages are wanted last of all, once around. So the
page goes whose next use is farthest (Belady), which here is the most recently used one; only that no step should find
all of its pages missing while others find none, since one step's time is there to bring them. While a step computes,
the pages of the next one come in. With P frames and G of them under way in each direction, N microbatches that take
turns have (P - 2 G) / N + G pages each (DeServe, arXiv 2501.14784, section 4.2).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from muster.wire.messages.generate import Row

Ints = npt.NDArray[np.int64]
_NEVER = np.iinfo(np.int64).max
_NONE = np.empty(0, dtype=np.int64)
_SLACK_STEPS = 2
"""A page that is not used twice around, and so much longer, belongs to nobody any more, or to a prefix at rest."""
_NEWEST = 0.25
"""What the latest step counts in the mean length of a round."""


@dataclass(frozen=True, slots=True)
class StepPages:
    """What one step does with pages; each is named once."""

    named: Ints
    """All that must lie in frames."""
    fresh: Ints
    """Of these, whose content is not wanted: nothing was written there yet, or all of it will be overwritten."""
    written: Ints

    @staticmethod
    def of(rows: Sequence[Row], copies: Sequence[tuple[int, int]], page_size: int) -> "StepPages":
        sources, targets = [source for source, _ in copies], [target for _, target in copies]
        named, fresh, written = list(sources), list(targets), list(targets)
        for row in rows:
            named += row.pages
            fresh += row.pages[-(-row.start // page_size) :]
            written += row.pages[row.start // page_size :]
        return StepPages(*(np.unique(np.array(pages, dtype=np.int64)) for pages in (named + targets, fresh, written)))


@dataclass(frozen=True, slots=True)
class Moves:
    """First pages go out of frames, then others come into frames; pairs by place in the arrays."""

    out_pages: Ints = field(default_factory=lambda: _NONE)
    out_frames: Ints = field(default_factory=lambda: _NONE)
    in_pages: Ints = field(default_factory=lambda: _NONE)
    in_frames: Ints = field(default_factory=lambda: _NONE)

    @property
    def count(self) -> int:
        return len(self.out_pages) + len(self.in_pages)


class Residency:
    """Decides what moves: `enter` before a step, `foresee` while it computes. Whoever asks carries it out in order."""

    def __init__(self, num_pages: int, num_frames: int, round_steps: int) -> None:
        """`round_steps`: about so many steps from one use of a page to the next; learnt from then on."""
        self.num_pages, self.num_frames = num_pages, num_frames
        self.frame_of = np.full(num_pages, -1, dtype=np.int64)
        self._page_of = np.full(num_frames, -1, dtype=np.int64)
        self._has_content = np.zeros(num_pages, dtype=bool)
        self._on_host = np.zeros(num_pages, dtype=bool)
        """Host memory has the page as it is now."""
        self._last_use = np.zeros(num_pages, dtype=np.int64)
        self._gap = np.zeros(num_pages, dtype=np.int64)
        """Steps between the last two uses."""
        self._due = np.full(num_pages, _NEVER)
        """In which step it is wanted, as a guess from the two; of the step at hand."""
        self._kept = np.zeros(num_pages, dtype=bool)
        """Those that must not go now."""
        self._round = float(round_steps)
        self._clock = 0
        self._fresh_lately = 0

    def enter(self, step: StepPages) -> Moves:
        """Until the next call the pages of `step` stay in their frames. They must not be more than there are frames."""
        self._clock += 1
        self._kept[:] = False
        self._kept[step.named] = True
        self._learn(step)
        missing = step.named[self.frame_of[step.named] < 0]
        wanted = ~np.isin(missing, step.fresh)
        self._fresh_lately = len(missing) - int(wanted.sum())
        victims = self._victims(-1) if len(missing) > self._free else _NONE
        moves = self._bring(missing, victims, wanted)
        self._has_content[step.written] = True
        self._on_host[step.written] = False
        return moves

    def foresee(self, coming: StepPages | None = None) -> Moves:
        """While the step computes: make room, and bring in what comes next: `coming`, if that step is known."""
        return _joined([self._predict() if coming is None else self._expect(coming), self._make_room()])

    def _expect(self, step: StepPages) -> Moves:
        """As far as there is room for pages of a step that is known to come."""
        self._kept[step.named] = True
        missing = step.named[self.frame_of[step.named] < 0]
        missing = missing[self._on_host[missing] & ~np.isin(missing, step.fresh)]
        victims = self._victims(self._clock)
        return self._bring(missing[: self._free + len(victims)], victims)

    def _predict(self) -> Moves:
        """What will be wanted in the next step, in place of what will be wanted later."""
        away = np.flatnonzero(self._on_host & (self.frame_of < 0) & (self._due <= self._clock + 1))
        victims = self._victims(self._clock + 1)
        soonest = away[np.argsort(self._due[away], kind="stable")]
        return self._bring(soonest[: self._free + len(victims)], victims)

    def _make_room(self) -> Moves:
        """As many pages as the last step began will be begun by the next, and it should not wait for others to go."""
        lacking = self._fresh_lately - self._free
        return self._evict(self._victims(self._clock + 1)[:lacking]) if lacking > 0 else Moves()

    @property
    def _free(self) -> int:
        return self.num_frames - int(np.count_nonzero(self._page_of >= 0))

    # --- when a page is wanted ------------------------------------------------------------------------------------

    def _learn(self, step: StepPages) -> None:
        used = step.named[(self._last_use[step.named] > 0) & ~np.isin(step.named, step.fresh)]
        if len(used):
            gaps = self._clock - self._last_use[used]
            self._gap[used] = gaps
            self._round += _NEWEST * (float(np.median(gaps)) - self._round)
        self._gap[step.fresh] = max(1, round(self._round))
        self._last_use[step.named] = self._clock
        self._due = self._next_use()

    def _next_use(self) -> Ints:
        """What is late by less than a round comes next, what is later than that never."""
        longest = np.maximum(self._gap, round(self._round))
        due = self._last_use + self._gap
        np.copyto(due, self._last_use + longest, where=due <= self._clock)
        late = due <= self._clock
        np.copyto(due, self._clock + 1, where=late)
        np.copyto(due, _NEVER, where=late & (self._clock - self._last_use > 2 * longest + _SLACK_STEPS))
        return due

    def _victims(self, later_than: int) -> Ints:
        """Pages in frames that may go and are wanted later than that, the best to lose first.

        All steps are to find about as much of theirs missing: the time to bring it in is that of one step. So the step
        goes on losing pages that misses fewest, and of equal ones the one that comes last.
        """
        there = self._page_of[self._page_of >= 0]
        there = there[~self._kept[there] & (self._due[there] > later_than)]
        due = self._due[there]
        # Among pages that are wanted in one step, those that host memory has already cost nothing to lose.
        costs = self._has_content[there] & ~self._on_host[there]
        order = np.lexsort((costs, -due))
        there, due = there[order], due[order]
        starts = np.flatnonzero(np.diff(due, prepend=-1))
        lengths = np.diff(starts, append=len(due))
        turn = np.arange(len(due)) - np.repeat(starts, lengths)
        missing = np.repeat(self._missing(due[starts]), lengths)
        missing[due == _NEVER] = -len(due)
        return np.asarray(there[np.lexsort((-due, missing + turn))])

    def _missing(self, due: Ints) -> Ints:
        """How many pages only host memory has of those that are wanted in each of these steps."""
        away = self._due[self._on_host & (self.frame_of < 0)]
        away = away[away != _NEVER] - self._clock
        counts = np.bincount(away, minlength=1)
        near = np.minimum(due - self._clock, len(counts))
        return np.append(counts, 0)[near]

    # --- moves ----------------------------------------------------------------------------------------------------

    def _bring(self, pages: Ints, victims: Ints, wanted: npt.NDArray[np.bool_] | None = None) -> Moves:
        """Into frames, of which `victims` make way if they must; `wanted` says whose content, by default all."""
        gone = self._evict(victims[: max(0, len(pages) - self._free)])
        frames = np.flatnonzero(self._page_of < 0)[: len(pages)]
        if len(frames) < len(pages):
            raise RuntimeError(f"{len(pages)} pages need a frame and {len(frames)} can be had: the step is too large.")
        self._page_of[frames], self.frame_of[pages] = pages, frames
        loaded = self._on_host[pages] if wanted is None else self._on_host[pages] & wanted
        return Moves(gone.out_pages, gone.out_frames, pages[loaded], frames[loaded])

    def _evict(self, pages: Ints) -> Moves:
        frames = self.frame_of[pages]
        lost = self._has_content[pages] & ~self._on_host[pages]
        self._page_of[frames], self.frame_of[pages] = -1, -1
        self._on_host[pages[lost]] = True
        return Moves(pages[lost], frames[lost])

    def check(self) -> None:
        """Raise AssertionError unless the books agree."""
        resident = np.flatnonzero(self.frame_of >= 0)
        assert (self._page_of[self.frame_of[resident]] == resident).all(), "a page and its frame disagree"
        assert (self._page_of >= 0).sum() == len(resident), "a frame holds a page that lies elsewhere"
        away = self.frame_of < 0
        assert self._on_host[away & self._has_content].all(), "the content of a page is nowhere"


def _joined(moves: Sequence[Moves]) -> Moves:
    """In order, though all go out first: nothing that comes in goes out again within one call of `foresee`."""
    return Moves(
        *(
            np.concatenate(arrays)
            for arrays in (
                [one.out_pages for one in moves],
                [one.out_frames for one in moves],
                [one.in_pages for one in moves],
                [one.in_frames for one in moves],
            )
        )
    )
