"""Who runs in the next step, on which pages. Knows nothing of tensors, and of time only the order of turns.

One turn fills one microbatch, class by class (interactive, then offline):

    1. decodes    sequences whose last token is known; about running / steps in flight of them, the longest idle first
    2. prefills   chunks of prompts already begun, in order of arrival, within the turn's token budget
    3. admissions from the queue, in order of arrival, if *all* pages of their context are there now

A sequence whose token is on its way is left alone until it returns; chunks of one prompt may follow each other in
consecutive turns, and pages may be taken from a sequence that is in flight and given to another at once. Stages need
not run steps in the order in which they left, so a turn names the last step under way that must have run before it:
one that has a chunk before, reads or wrote a page that is its own now, or had its slot (`order.py`).

A sequence that decodes may take guesses along, which the same step checks. They are none of its tokens before they
have come back: their pages are found by nobody, and what was wrong is overwritten by the next step of the sequence.

Memory: nothing is promised. When a decode needs a page and none is there, the last in rank gives up all of its pages
and starts again later (preemption by recompute); the first in rank is never asked, so the engine always moves.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterator
from heapq import heappop, heappush

from muster.cost.memory import SCORED_AT_ONCE
from muster.errors import LimitReached
from muster.serve.options import EngineOptions
from muster.serve.order import UnderWay
from muster.serve.page_needs import PageNeeds, is_promised, needs_of
from muster.serve.pages import PagePool
from muster.serve.sequence import Sequence, State
from muster.serve.turn import MAX_GUESSES, MAX_STEP_SCORES, StepRow, Turn
from muster.sim.serve.ring import MAX_SLOTS
from muster.spec.request import Priority

GuessFor = Callable[[Sequence, int, bool], tuple[int, ...]]
"""Which tokens may follow a sequence, at most so many, and whether other sequences keep the ring busy."""


class Scheduler:
    def __init__(
        self,
        pages: PagePool,
        options: EngineOptions,
        step_pages: int | None = None,
        guess_for: GuessFor | None = None,
        under_way: Collection[int] = (),
    ) -> None:
        """`step_pages` as in `PagedCache`, where that is less than all.

        `under_way` are the numbers of the steps that have not come back, whenever it looks.
        """
        self._guess_for = guess_for
        self._pages = pages
        self._options = options
        self._step_pages = pages.num_pages if step_pages is None else step_pages
        self._crowded_out = False
        """Whether a prompt had to stay out of the last turn because of the pages that decodes name."""
        self._queues: dict[Priority, list[tuple[int, Sequence]]] = {priority: [] for priority in Priority}
        self._running: list[Sequence] = []
        self._free_slots = deque(range(MAX_SLOTS))
        """The longest unused first: a step need not wait for the one that had its slot."""
        self._released: list[tuple[int, int]] = []
        """Slots, with the last step that ran each."""
        self._under_way = UnderWay(under_way)
        self._next = 0
        self._steps = 1
        self.num_waiting = 0
        self.preemptions = 0
        self.reused_tokens = 0

    # --- what happens to a sequence -----------------------------------------------------------------------------

    def add(self, sequence: Sequence) -> None:
        if self.num_waiting >= self._options.max_queue:
            raise LimitReached(f"{self.num_waiting} requests are waiting already; try again when some have finished.")
        self._enqueue(sequence)

    def received(self, sequence: Sequence, count: int) -> None:
        """The token that the sequence was waiting for has come back, and is in it, with `count` - 1 right guesses."""
        sequence.awaiting = False
        if sequence.state is State.PREEMPTED:
            self._enqueue(sequence)
        elif sequence.state is State.RUNNING and count > 1:
            size, start = self._pages.page_size, sequence.computed
            sequence.computed += count - 1
            sequence.extend_digests(size)
            for index in range(start // size, sequence.computed // size):
                self._pages.publish(sequence.pages[index], sequence.digests[index])

    def lost(self, turn: Turn) -> None:
        """The turn did not come to its end: what it was to write is not there. Its sequences have to be ended."""
        for share in turn.shares:
            first = share.start // self._pages.page_size
            self._pages.withdraw(share.sequence.pages[first:])

    def end(self, sequence: Sequence) -> None:
        """The sequence is finished or cancelled; also while a step of it is in flight."""
        if sequence.state is State.RUNNING:
            self._give_up_pages(sequence)
        elif sequence.state is State.WAITING:
            self.num_waiting -= 1
        sequence.state = State.ENDED

    @property
    def running(self) -> tuple[Sequence, ...]:
        return tuple(self._running)

    @property
    def could_run(self) -> bool:
        """Whether a turn may have something to do; it can still turn out that pages are missing."""
        return self.num_waiting > 0 or any(sequence.remaining for sequence in self._running)

    # --- one turn -----------------------------------------------------------------------------------------------

    def turn(self, steps: int) -> Turn | None:
        """Choose the rows of the next of so many steps in flight, and reserve their pages. None if nothing can run."""
        self._steps = steps
        turn = Turn(self._next)
        admitting, prompts_first, self._crowded_out = True, self._crowded_out, False
        for priority in Priority:
            if not prompts_first:
                self._take_decodes(turn, priority)
            self._take_prefills(turn, priority)
            # A class that must wait for pages is not overtaken by a lower one that would take them.
            admitting = admitting and self._admit(turn, priority)
            if prompts_first:
                self._take_decodes(turn, priority)
        if not turn.shares:
            return None
        for share in turn.shares:
            self._publish(share)
        sources = [source for source, _ in turn.copies]
        self._pages.release(sources)
        self._under_way.copy(sources, turn.number)
        self._release_slots(turn)
        self._next += 1
        return turn

    def _take_decodes(self, turn: Turn, priority: Priority) -> None:
        cap = self._part_of(len(self._running))
        ready = [s for s in self._running if s.remaining == 1 and s.request.priority is priority]
        for sequence in sorted(ready, key=lambda s: (s.turn, s.arrival)):
            if len(turn.shares) >= cap:
                return
            if sequence.state is State.RUNNING and self._grow(sequence, turn):
                if not self._can_name(turn, sequence.pages):
                    return
                self._share(turn, sequence, 1, self._guess(sequence, turn))

    def _take_prefills(self, turn: Turn, priority: Priority) -> None:
        begun = [s for s in self._running if s.remaining > 1 and s.request.priority is priority]
        for sequence in sorted(begun, key=lambda s: s.arrival):
            room = self._prefill_room(turn)
            if room == 0:
                return
            if length := min(sequence.remaining, room, self._score_room(turn, sequence)):
                if not self._can_name(turn, sequence.pages[: self._pages.pages_for(sequence.computed + length)]):
                    self._crowded_out = True
                    return
                self._share(turn, sequence, length)

    def _admit(self, turn: Turn, priority: Priority) -> bool:
        """Start waiting sequences. False if the first of them has to wait for pages or for a place."""
        queue = self._queues[priority]
        deferred = []
        fits = True
        while fits and self._prefill_room(turn) > 0 and (sequence := self._first(queue)):
            if self._score_room(turn, sequence) == 0:
                break
            fit = self._make_room(sequence, turn)
            if fit is None:
                fits = False
            elif not self._can_name(turn, fit.found, fit.fresh):
                self._crowded_out, fits = True, False
            elif is_promised(sequence, fit, self._pages.page_size, turn.promised):
                # Another row is computing the next page of this very prefix: one turn later it can be found.
                deferred.append(heappop(queue))
            else:
                heappop(queue)
                self._start(sequence, fit, turn)
                room = min(self._prefill_room(turn), self._score_room(turn, sequence))
                self._share(turn, sequence, min(sequence.remaining, room))
        for entry in deferred:
            heappush(queue, entry)
        return fits

    def _guess(self, sequence: Sequence, turn: Turn) -> tuple[int, ...]:
        """Tokens that may follow, as many as are worth it and find room. No other work makes way for them."""
        if self._guess_for is None:
            return ()
        # Where a step may not name all pages, these were counted before.
        size, free = self._pages.page_size, 0 if self._counts_pages else self._pages.available
        most = min(
            MAX_GUESSES,
            sequence.most_to_come(self._options.max_context) - 1,
            (len(sequence.pages) + free) * size - len(sequence.tokens),
            self._options.prefill_tokens - turn.prompt_tokens - 1,
            SCORED_AT_ONCE - turn.guesses - len(self._running),
        )
        # One sequence alone cannot keep the ring busy, however few steps may be in flight.
        others_wait = 1 < len(self._running) + self.num_waiting > self._steps // 2
        guesses = self._guess_for(sequence, most, others_wait) if most > 0 else ()
        missing = self._pages.pages_for(len(sequence.tokens) + len(guesses)) - len(sequence.pages)
        sequence.pages += self._allocate(max(0, missing), turn)
        turn.guesses += len(guesses)
        return guesses

    def _share(self, turn: Turn, sequence: Sequence, length: int, guesses: tuple[int, ...] = ()) -> None:
        start = sequence.computed
        sequence.computed += length
        turn.after = max(turn.after, self._under_way.last(sequence.turn))
        sequence.turn = turn.number
        sequence.awaiting = sequence.remaining == 0
        samples = 1 + len(guesses) if sequence.awaiting else 0
        if length + len(guesses) > 1:
            turn.prompt_tokens += length + len(guesses)
        scores = sequence.scores_of(start, start + length)
        turn.scores += scores
        sequence.scored = max(sequence.scored, start + scores) if scores else sequence.scored
        turn.shares.append(StepRow(sequence, start, length + len(guesses), samples, scores, guesses))
        if self._counts_pages:
            turn.pages.update(sequence.pages[: self._pages.pages_for(start + length + len(guesses))])
        sequence.extend_digests(self._pages.page_size)
        turn.promised.update(digest for _, digest in self._filled(turn.shares[-1]))

    def _prefill_room(self, turn: Turn) -> int:
        """Prompt tokens that still fit the turn; 0 when it has its part of all sequences already."""
        if len(turn.shares) >= self._part_of(len(self._running) + self.num_waiting):
            return 0
        return self._options.prefill_tokens - turn.prompt_tokens

    def _part_of(self, sequences: int) -> int:
        """How many of them one step takes, so that all steps in flight are alike."""
        return max(1, min(-(-sequences // self._steps), self._options.max_batch))

    @property
    def _has_place(self) -> bool:
        """Whether one more may run: as many as all steps in flight together take."""
        return bool(self._free_slots) and len(self._running) < self._steps * self._options.max_batch

    def _score_room(self, turn: Turn, sequence: Sequence) -> int:
        """Tokens of this sequence that may run, as far as their scores fit into one message."""
        return self._options.prefill_tokens if sequence.reusable is None else MAX_STEP_SCORES - turn.scores

    @property
    def _counts_pages(self) -> bool:
        return self._step_pages < self._pages.num_pages

    def _can_name(self, turn: Turn, pages: list[int], more: int = 0) -> bool:
        """Whether a row with these pages and some more may join the turn.

        Pages of two steps must lie in the frames, so that those of one come in while the other computes; only a row
        that is too large for that runs alone.
        """
        if not self._counts_pages or not turn.shares:
            return True
        return len(turn.pages.union(pages)) + more <= self._step_pages // 2

    # --- pages --------------------------------------------------------------------------------------------------

    def _grow(self, sequence: Sequence, turn: Turn) -> bool:
        """Make sure that the next token has a page, at the expense of the last in rank. False: wait."""
        if self._pages.pages_for(len(sequence.tokens)) <= len(sequence.pages):
            return True
        while self._pages.available == 0:
            victim = max((s for s in self._running if s.turn != turn.number), key=lambda s: s.rank)
            if victim is sequence:
                return False
            self._preempt(victim)
        sequence.pages += self._allocate(1, turn)
        return True

    def _allocate(self, count: int, turn: Turn) -> list[int]:
        """Pages that steps under way may still read, or write."""
        pages = self._pages.allocate(count)
        turn.after = max(turn.after, self._under_way.before_writing(pages))
        return pages

    def _make_room(self, sequence: Sequence, turn: Turn) -> PageNeeds | None:
        """A fit that the pool can afford, after preempting sequences of a lower class if that helps."""
        # Each running sequence will want a page soon; without this reserve a newcomer is thrown out at once.
        while True:
            fit = needs_of(sequence, self._pages, self._step_pages)
            needed = fit.fresh + fit.idle + len(self._running)
            if needed <= self._pages.available and self._has_place:
                return fit
            victims = [s for s in self._running if s.request.priority > sequence.request.priority]
            held = sum(len(victim.pages) + 1 for victim in victims)
            if not victims or needed > self._pages.available + held:
                return None
            self._preempt(max(victims, key=lambda s: s.rank))

    def _start(self, sequence: Sequence, fit: PageNeeds, turn: Turn) -> None:
        self.num_waiting -= 1
        self._pages.retain(fit.found)
        found = self._under_way.before_reading(fit.found), self._under_way.before_writing(fit.found)
        turn.after = max(turn.after, *found)
        fresh = self._allocate(fit.fresh, turn)
        sequence.pages = fit.found + fresh
        if fit.copy_last:
            # The source stays held until the turn is complete, so that no row of it can be given the page.
            source, last = fit.found[-1], len(fit.found) - 1
            sequence.pages[last : last + 2] = [fresh[0]]
            turn.copies.append((source, fresh[0]))
            turn.pages.add(source)
        elif fit.known < len(fit.found) * self._pages.page_size:
            self._pages.make_private(fit.found[-1])
        sequence.computed = fit.known
        sequence.state = State.RUNNING
        sequence.slot = self._free_slots.popleft()
        turn.after = max(turn.after, self._under_way.before_admitting(sequence.slot))
        self.reused_tokens += fit.known
        self._running.append(sequence)
        turn.admitted.append(sequence)

    def _preempt(self, victim: Sequence) -> None:
        self.preemptions += 1
        self._give_up_pages(victim)
        victim.computed = 0
        if victim.awaiting:
            victim.state = State.PREEMPTED
        else:
            self._enqueue(victim)

    def _give_up_pages(self, sequence: Sequence) -> None:
        self._running.remove(sequence)
        self._pages.release(sequence.pages)
        self._under_way.leave(sequence.pages, sequence.turn)
        sequence.pages = []
        self._released.append((sequence.slot, sequence.turn))
        self._free_slots.append(sequence.slot)
        sequence.slot = -1

    def _release_slots(self, turn: Turn) -> None:
        """Tell the last stage, after the last step that ran them; whoever gets one of them comes behind that."""
        released, self._released = self._released, []
        turn.released = [slot for slot, _ in released]
        turn.after = max([turn.after, *(self._under_way.last(step) for _, step in released)])
        self._under_way.release(turn.released, turn.number)

    def _filled(self, share: StepRow) -> Iterator[tuple[int, bytes]]:
        """(index in the page table, digest) of the pages that this row completes, and of a prompt's partial last.

        What is only guessed belongs to no page yet.
        """
        sequence, size, end = share.sequence, self._pages.page_size, share.end
        yield from ((index, sequence.digests[index]) for index in range(share.start // size, end // size))
        if share.samples and not share.decodes and (tail := sequence.tail_digest(size)):
            yield end // size, tail

    def _publish(self, share: StepRow) -> None:
        for index, digest in self._filled(share):
            page = share.sequence.pages[index]
            self._pages.publish(page, digest)
            self._under_way.write(page, share.sequence.turn)

    # --- the queue ----------------------------------------------------------------------------------------------

    def _enqueue(self, sequence: Sequence) -> None:
        sequence.state = State.WAITING
        self.num_waiting += 1
        heappush(self._queues[sequence.request.priority], (sequence.arrival, sequence))

    def _first(self, queue: list[tuple[int, Sequence]]) -> Sequence | None:
        while queue and queue[0][1].state is not State.WAITING:
            heappop(queue)
        return queue[0][1] if queue else None

    def check(self) -> None:
        """Raise AssertionError unless pages, slots and states agree."""
        self._pages.check([sequence.pages for sequence in self._running])
        slots = [sequence.slot for sequence in self._running]
        assert sorted([*slots, *self._free_slots]) == list(range(len(slots) + len(self._free_slots))), "slots disagree"
        waiting = [s for queue in self._queues.values() for _, s in queue if s.state is State.WAITING]
        assert len(waiting) == self.num_waiting == len(set(map(id, waiting))), "the count of waiting sequences is off"
        assert all(not s.pages and s.computed == 0 and not s.awaiting for s in waiting), "a waiting one holds something"
        for sequence in self._running:
            assert sequence.state is State.RUNNING, "an ended sequence still runs"
            assert self._pages.pages_for(sequence.computed) <= len(sequence.pages), "a computed token has no page"
            assert sequence.awaiting == (sequence.remaining == 0), "the token on its way is not accounted for"
