"""How the answers to one request are read: the text of a choice to events. Knows no tokens."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from muster.text.tools.call_form import CallForm
from muster.text.tools.events import Event
from muster.text.tools.source import Source, Steps
from muster.text.tools.turn import MAX_CALLS, AssistantTurn, Schemas


class ModelFamily(Protocol):
    """One way of models to write calls."""

    @property
    def name(self) -> str:
        """`--tool-parser` takes it."""

    @property
    def marks(self) -> tuple[str, ...]:
        """What may be a token that adds nothing to a text, and has to be seen all the same."""

    @property
    def form(self) -> CallForm:
        """How it writes calls."""

    @property
    def always(self) -> bool:
        """Its marks are around all that it writes, calls or not."""

    def read(self, source: Source, turn: AssistantTurn) -> Steps[None]:
        """Read an answer from its beginning to its end."""


@dataclass(frozen=True, slots=True)
class Tags:
    """What a model writes around its reasoning."""

    begin: str
    end: str

    @property
    def marks(self) -> tuple[str, ...]:
        """What of it may be a token that adds nothing to a text."""
        first = self.begin[: self.begin.find(">") + 1] or self.begin
        return (first, self.end)


@dataclass(frozen=True, slots=True)
class Reading:
    family: ModelFamily | None = None
    """None: no calls are looked for."""
    schemas: Schemas = field(default_factory=dict)
    """The tools that there are."""
    tags: Tags | None = None
    """None: no reasoning is looked for."""
    begins_in_thought: bool = False
    """The prompt has opened the reasoning already."""
    max_calls: int = MAX_CALLS
    spelled: Mapping[int, bytes] = field(default_factory=dict)
    """Tokens that are to be seen though they add nothing to a text."""

    def start(self, request_id: str) -> "Reader":
        return Reader(self, request_id)


class Reader:
    """The text of one choice comes in, events go out. Pure."""

    def __init__(self, reading: Reading, request_id: str) -> None:
        self._source, self._reading = Source(), reading
        self.turn = AssistantTurn(request_id, reading.schemas, reading.max_calls)
        self._steps = self._read()
        self._done = False

    def feed(self, text: str) -> tuple[Event, ...]:
        self._source.add(text)
        self._go_on()
        return self.turn.take()

    def finish(self) -> tuple[Event, ...]:
        """All that is still held back."""
        self._source.end()
        self._go_on()
        self.turn.finish()
        return self.turn.take()

    def _go_on(self) -> None:
        if not self._done and not self.turn.over:
            self._done = next(self._steps, self) is self

    def _read(self) -> Steps[None]:
        if self._reading.tags is not None:
            yield from self._reasoning(self._reading.tags)
        if self._reading.family is not None:
            yield from self._reading.family.read(self._source, self.turn)
        else:
            yield from self._source.rest(self.turn.say)

    def _reasoning(self, tags: Tags) -> Steps[None]:
        if not self._reading.begins_in_thought:
            space = yield from self._source.space()
            if not (yield from self._source.skip(tags.begin)):
                self.turn.say(space)
                return
        self.turn.end_block()
        yield from self._source.until((tags.end,), self.turn.think)
        self.turn.end_block()
