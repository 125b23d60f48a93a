r"""Which grammars the last stage holds, by number: the books of the first stage. Knows neither tokens nor threads.

    asked --> ready --> forgotten         a sequence waits until its grammar is ready; the same text is asked for once
          \-> refused                     whoever waits for it ends with the reason

What nobody uses any more stays ready for the next one, until others need the room. What was forgotten here counts until
the last stage is known to have forgotten it, too: clients that leave early make it grow without a single step.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from muster.errors import LimitReached
from muster.serve.sequence import Sequence, State
from muster.spec.sampling import MAX_GRAMMARS, MAX_GRAMMARS_BYTES


@dataclass(slots=True)
class _Entry:
    number: int
    nbytes: int
    is_ready: bool = False
    users: int = 0
    """Sequences that have it and have not ended."""
    waiting: list[Sequence] = field(default_factory=list)


class GrammarBook:
    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        """By their text, the longest unused first."""
        self._nbytes = 0
        self._number = 0
        self._asked: list[tuple[int, str]] = []
        self._forgotten: list[int] = []
        self._leaving: dict[int, int] = {}
        """Number to bytes: forgotten here, and perhaps not there."""

    def enter(self, sequence: Sequence) -> bool:
        """Whether the sequence may run at once; else it is one of those that `answered` gives back.

        Raises `LimitReached`.
        """
        grammar = sequence.request.sampling.grammar
        if not grammar:
            return True
        entry = self._entries.pop(grammar, None) or self._ask(grammar)
        self._entries[grammar] = entry
        entry.users += 1
        if not entry.is_ready:
            sequence.state = State.PREPARING
            entry.waiting.append(sequence)
        return entry.is_ready

    def leave(self, sequence: Sequence) -> None:
        """The sequence has ended, or will."""
        entry = self._entries.get(sequence.request.sampling.grammar)
        if entry is not None:
            entry.users -= 1
            entry.waiting = [other for other in entry.waiting if other is not sequence]

    def number_of(self, sequence: Sequence) -> int:
        """0 for none."""
        grammar = sequence.request.sampling.grammar
        return self._entries[grammar].number if grammar else 0

    def answered(self, number: int, problem: str) -> list[Sequence] | None:
        """Those that waited for it; None where nothing was asked under this number.

        With a `problem` the grammar is none: they must end.
        """
        found = next((pair for pair in self._entries.items() if pair[1].number == number), None)
        if found is None or found[1].is_ready:
            return None
        grammar, entry = found
        waiting, entry.waiting = entry.waiting, []
        entry.is_ready = True
        if problem:
            del self._entries[grammar]
            self._nbytes -= entry.nbytes
        return waiting

    def take_asked(self) -> tuple[tuple[int, str], ...]:
        """(number, text) to be prepared, each once."""
        asked, self._asked = tuple(self._asked), []
        return asked

    def take_forgotten(self) -> tuple[int, ...]:
        """To be told with the next step, after its admissions; or with the next grammar, where no step is under way."""
        forgotten, self._forgotten = tuple(self._forgotten), []
        return forgotten

    def gone(self, numbers: Iterable[int]) -> None:
        """The last stage has forgotten these."""
        for number in numbers:
            self._leaving.pop(number, None)

    @property
    def has_asked(self) -> bool:
        return bool(self._asked)

    def check(self, sequences: Iterable[Sequence]) -> None:
        """Raise AssertionError unless the books agree with these, which have not ended."""
        users: dict[str, int] = {}
        for sequence in sequences:
            if grammar := sequence.request.sampling.grammar:
                users[grammar] = users.get(grammar, 0) + 1
                assert grammar in self._entries, "a grammar in use was forgotten"
        assert users == {text: entry.users for text, entry in self._entries.items() if entry.users}, "users disagree"
        assert self._nbytes == sum(entry.nbytes for entry in self._entries.values()), "the bytes are off"

    def _ask(self, grammar: str) -> _Entry:
        nbytes = len(grammar.encode())
        self._make_room(nbytes)
        self._number += 1
        self._nbytes += nbytes
        self._asked.append((self._number, grammar))
        return _Entry(self._number, nbytes)

    def _make_room(self, nbytes: int) -> None:
        for text, entry in list(self._entries.items()):
            if len(self._entries) < MAX_GRAMMARS and self._nbytes + nbytes <= MAX_GRAMMARS_BYTES:
                return
            if entry.is_ready and not entry.users and self._may_leave(entry):
                del self._entries[text]
                self._nbytes -= entry.nbytes
                self._forgotten.append(entry.number)
                self._leaving[entry.number] = entry.nbytes
        if len(self._entries) >= MAX_GRAMMARS or self._nbytes + nbytes > MAX_GRAMMARS_BYTES:
            raise LimitReached("Too many different schemas or grammars are in use here at once; try again later.")

    def _may_leave(self, entry: _Entry) -> bool:
        """Whether the last stage has room for what leaves beside what stays."""
        nbytes = entry.nbytes + sum(self._leaving.values())
        return len(self._leaving) < MAX_GRAMMARS and nbytes <= MAX_GRAMMARS_BYTES
