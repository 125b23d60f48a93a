"""The events of one answer as blocks, one after the other: text, thought, or a call. Knows no format and no HTTP.

APIs that answer in blocks say when one begins, what is added to it, and when it ends.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from muster.text.tools.events import CallArguments, CallBegun, CallEnded, Event, Said, Thought

Kind = Literal["text", "thought", "call"]


@dataclass(slots=True)
class Block:
    index: int
    kind: Kind
    id: str = ""
    """Of a call."""
    name: str = ""
    """Of the tool that is called."""
    complete: bool = False
    """A call whose arguments are whole."""
    pieces: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """What it says so far; of a call, the JSON text of the arguments."""
        return "".join(self.pieces)


@dataclass(frozen=True, slots=True)
class BlockStep:
    what: Literal["begins", "goes on", "ends"]
    block: Block
    piece: str = ""


class Blocks:
    def __init__(self) -> None:
        self.all: list[Block] = []
        self._open: Block | None = None

    def take(self, event: Event) -> Iterator[BlockStep]:
        match event:
            case Said(text):
                yield from self._say("text", text)
            case Thought(text):
                yield from self._say("thought", text)
            case CallBegun(_, id, name):
                yield from self.finish()
                yield self._begin("call", id, name)
            case CallArguments(_, text):
                yield from self._add(text)
            case CallEnded():
                if self._open is not None:
                    self._open.complete = True
                yield from self.finish()

    def finish(self) -> Iterator[BlockStep]:
        """End what is open."""
        if self._open is not None:
            yield BlockStep("ends", self._open)
            self._open = None

    def _say(self, kind: Kind, text: str) -> Iterator[BlockStep]:
        if not text:
            return
        if self._open is None or self._open.kind != kind:
            yield from self.finish()
            yield self._begin(kind)
        yield from self._add(text)

    def _begin(self, kind: Kind, id: str = "", name: str = "") -> BlockStep:
        self._open = Block(len(self.all), kind, id, name)
        self.all.append(self._open)
        return BlockStep("begins", self._open)

    def _add(self, text: str) -> Iterator[BlockStep]:
        if self._open is not None and text:
            self._open.pieces.append(text)
            yield BlockStep("goes on", self._open, text)
