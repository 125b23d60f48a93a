"""Who runs in the next step of a simulated ring: the rules of `serve/schedule.py` on counts instead of tokens.

One class of requests, no prefixes in common, no cancelling. Each rule names its twin there; where the engine sorts its
sequences anew every turn, here the order is kept, since tokens come back in the order in which steps left. The engine
finds what it had computed for a sequence that lost its pages, if nobody overwrote them; here it is computed again.
"""

from collections import deque
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from math import inf
from operator import attrgetter

from muster.sim.serve.arrivals import Arrival
from muster.sim.serve.ring import MAX_SLOTS, pages_for
from muster.sim.serve.stage_time import StepLoad

_RANK = attrgetter("rank")
_IDLE = attrgetter("turn", "rank")


@dataclass(slots=True, eq=False)
class Sequence:
    """A request and how far it has come."""

    rank: int
    """In the order of submission to its pipeline."""
    arrival: Arrival
    tokens: int
    """Of prompt and answer so far."""
    last: int
    """As many as it will have."""
    computed: int = 0
    """Of what it had when it was let in; whoever decodes has computed all but its last token."""
    room: int = 0
    """Tokens that its pages hold."""
    turn: int = 0
    """The last that came back, or that left its prompt with one token to go."""
    runs: bool = False
    awaiting: bool = False
    """A step that samples its next token is on its way."""
    first_s: float = inf
    """When its first token came, and the last."""
    end_s: float = inf
    resubmissions: int = 0

    def __lt__(self, other: "Sequence") -> bool:
        return self.rank < other.rank

    def start_over(self) -> None:
        """Pages and computed tokens are gone; what was emitted stays."""
        self.computed = self.room = 0
        self.runs = self.awaiting = False


@dataclass(slots=True)
class Turn:
    """One step: what it carries, and whose tokens come back with it."""

    number: int
    load: StepLoad
    sampling: list[Sequence]
    stage_s: dict[int, float] = field(default_factory=dict)
    """What it takes at normal speed, by kind of stage."""
    worked_s: list[float] = field(default_factory=list)
    """How long each stage so far was busy with it."""
    left_s: float = 0.0
    """When the head was done with it."""
    waited_s: float = 0.0
    """For stages that had others to do."""


@dataclass(slots=True)
class _Rows:
    """Of the turn that is being filled."""

    count: int = 0
    prompt_tokens: int = 0
    decodes: int = 0
    context: int = 0
    chunks: list[tuple[int, int]] = field(default_factory=list)
    sampling: list[Sequence] = field(default_factory=list)


class SimulatedScheduler:
    def __init__(self, num_pages: int, page_size: int, in_flight: int, prefill_tokens: int, max_batch: int) -> None:
        self.free_pages = self.num_pages = num_pages
        self._page_size = page_size
        self.in_flight = in_flight
        """Steps that there should be; it may change from turn to turn."""
        self._prefill_tokens = prefill_tokens
        self._max_batch = max_batch
        self._waiting: list[Sequence] = []
        self._running: set[Sequence] = set()
        self._ready: deque[Sequence] = deque()
        """Run, and want one more token computed; the longest idle first."""
        self._early: set[Sequence] = set()
        """Of those, the ones whose prompt has one token left: they need not wait for their last chunk to come back."""
        self._begun: list[Sequence] = []
        """Run, and have more of their prompt to compute; in order of arrival."""
        self._adrift: set[Sequence] = set()
        """Lost their pages while a token was on its way; they wait again when it arrives."""
        self._leaving: set[Sequence] = set()
        """Go to another pipeline as soon as the token arrives that is on its way."""
        self.gone: list[Sequence] = []
        """Have left so, and nobody has taken them in yet."""
        self._turns = 0
        self.preemptions = 0
        self.peak_pages = 0

    @property
    def outstanding(self) -> int:
        return len(self._waiting) + len(self._running)

    @property
    def used_pages(self) -> int:
        return self.num_pages - self.free_pages

    def add(self, sequence: Sequence) -> None:
        heappush(self._waiting, sequence)

    def give_up(self) -> list[Sequence]:
        """Everything that is not finished, as if it had just arrived."""
        lost = sorted([*self._waiting, *self._running, *self._adrift])
        for sequence in lost:
            sequence.start_over()
        self._waiting, self._begun = [], []
        self._running.clear()
        self._ready.clear()
        self._early.clear()
        self._adrift.clear()
        self._leaving.clear()
        self.free_pages = self.num_pages
        return lost

    def let_go(self, count: int) -> list[Sequence]:
        """Of those that came here from a broken pipeline, the last `count` leave, as if they had just arrived.

        Whoever has a token on its way follows later (`gone`).
        """
        here = [*self._waiting, *self._running, *self._adrift]
        going = sorted(one for one in here if one.resubmissions and one not in self._leaving)[-count:]
        at_once = [one for one in going if not one.awaiting]
        self._leaving.update(one for one in going if one.awaiting)
        self._waiting = [one for one in self._waiting if one not in set(at_once)]
        heapify(self._waiting)
        for one in at_once:
            if one.runs:
                self._take_out(one)
            one.start_over()
        return at_once

    # --- one turn (schedule.Scheduler.turn) -------------------------------------------------------------------------

    def turn(self) -> Turn | None:
        """The rows of the next step, with their pages; None if nothing can run now."""
        self._turns += 1
        rows = _Rows()
        if self._ready:
            self._take_decodes(rows)
        if self._begun:
            self._take_prefills(rows)
        if self._waiting:
            self._admit(rows)
        if not rows.count:
            return None
        self.peak_pages = max(self.peak_pages, self.used_pages)
        context = rows.context / rows.decodes if rows.decodes else 0.0
        load = StepLoad(rows.decodes, context, tuple(rows.chunks), len(rows.sampling))
        return Turn(self._turns, load, rows.sampling)

    def _take_decodes(self, rows: _Rows) -> None:
        cap = self._part_of(len(self._running))
        ready = self._ready
        stuck: list[Sequence] = []
        if self._early:
            ready = self._ready = deque(sorted(ready, key=_IDLE))
        while ready and rows.count < cap:
            sequence = ready.popleft()
            if sequence.tokens > sequence.room and not self._grow(sequence, rows, stuck):
                stuck.append(sequence)
                continue
            if self._early:
                self._early.discard(sequence)
            sequence.awaiting = True
            rows.count += 1
            rows.context += sequence.tokens
            rows.sampling.append(sequence)
        rows.decodes = rows.count
        ready.extendleft(reversed(stuck))

    def _take_prefills(self, rows: _Rows) -> None:
        for sequence in list(self._begun):
            room = self._prefill_room(rows)
            if room == 0:
                return
            self._begun.remove(sequence)
            self._compute_prompt(sequence, room, rows)

    def _admit(self, rows: _Rows) -> None:
        while self._waiting and (room := self._prefill_room(rows)) > 0:
            pages = pages_for(self._waiting[0].tokens, self._page_size)
            # Each running sequence will want a page soon; without this reserve a newcomer is thrown out at once.
            full = len(self._running) >= min(MAX_SLOTS, self.in_flight * self._max_batch)
            if full or pages + len(self._running) > self.free_pages:
                return
            sequence = heappop(self._waiting)
            self.free_pages -= pages
            sequence.room = pages * self._page_size
            sequence.runs = True
            self._running.add(sequence)
            self._compute_prompt(sequence, room, rows)

    def _compute_prompt(self, sequence: Sequence, room: int, rows: _Rows) -> None:
        left = sequence.tokens - sequence.computed
        length = min(left, room)
        if length > 1:
            rows.prompt_tokens += length
        rows.count += 1
        rows.chunks.append((sequence.computed, length))
        sequence.computed += length
        if length == left:
            sequence.awaiting = True
            rows.sampling.append(sequence)
        elif left - length == 1:
            sequence.turn = self._turns
            self._ready.append(sequence)
            self._early.add(sequence)
        else:
            self._begun.append(sequence)
            self._begun.sort()

    def _prefill_room(self, rows: _Rows) -> int:
        """Prompt tokens that still fit the turn; 0 when it has its part of all sequences already."""
        if rows.count >= self._part_of(self.outstanding):
            return 0
        return self._prefill_tokens - rows.prompt_tokens

    def _part_of(self, sequences: int) -> int:
        """How many of them one step takes, so that all steps in flight are alike."""
        return max(1, min(-(-sequences // self.in_flight), self._max_batch))

    # --- pages (schedule.Scheduler._grow, ._preempt) ----------------------------------------------------------------

    def _grow(self, sequence: Sequence, rows: _Rows, stuck: list[Sequence]) -> bool:
        """One more page, at the expense of the last in rank. False: that is this one itself."""
        while self.free_pages == 0:
            victim = max(self._running.difference(rows.sampling))
            if victim is sequence:
                return False
            self._preempt(victim, stuck)
        self.free_pages -= 1
        sequence.room += self._page_size
        return True

    def _preempt(self, victim: Sequence, stuck: list[Sequence]) -> None:
        self.preemptions += 1
        self._take_out(victim, stuck)
        victim.computed = 0
        if victim.awaiting:
            self._adrift.add(victim)
        else:
            self.add(victim)

    def _take_out(self, sequence: Sequence, stuck: list[Sequence] | None = None) -> None:
        self._leave(sequence)
        for place in (self._ready, self._begun, stuck or []):
            if sequence in place:
                place.remove(sequence)
        self._early.discard(sequence)

    def _leave(self, sequence: Sequence) -> None:
        self._running.remove(sequence)
        self.free_pages += sequence.room // self._page_size
        sequence.room = 0
        sequence.runs = False

    # --- tokens come back (schedule.Scheduler.received) -------------------------------------------------------------

    def returned(self, turn: Turn) -> tuple[list[Sequence], list[Sequence]]:
        """Every sequence of the step has its token. Those for which it is the first, and those for which the last."""
        started, finished = [], []
        for sequence in sorted(turn.sampling, key=_RANK):
            sequence.awaiting = False
            sequence.turn = turn.number
            sequence.tokens += 1
            if sequence.first_s == inf:
                started.append(sequence)
            if sequence.tokens == sequence.last:
                self._end(sequence)
                finished.append(sequence)
            elif sequence in self._leaving:
                self._end(sequence)
                sequence.start_over()
                self.gone.append(sequence)
            elif sequence.runs:
                self._ready.append(sequence)
            else:
                self._adrift.remove(sequence)
                self.add(sequence)
        return started, finished

    def _end(self, sequence: Sequence) -> None:
        self._leaving.discard(sequence)
        if sequence.runs:
            self._leave(sequence)
        else:
            self._adrift.remove(sequence)

    def check(self) -> None:
        """Raise AssertionError unless pages and lists agree."""
        held = sum(sequence.room // self._page_size for sequence in self._running)
        assert 0 <= self.free_pages == self.num_pages - held, "pages are lost"
        assert all(sequence.tokens <= sequence.room + 1 for sequence in self._running), "a computed token has no page"
        lists = [*self._ready, *self._begun, *(s for s in self._running if s.awaiting)]
        assert len(lists) == len(set(lists)) == len(self._running), "a running sequence is in no list, or in two"
        assert all(not s.room and not s.runs and not s.awaiting and not s.computed for s in self._waiting), (
            "a waiting one holds something"
        )
