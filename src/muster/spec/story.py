"""What a state machine was told lately and what it decided: kept in a ring, told in words. Knows no machine.

    commands = ...                                    what `handle` decided for `event`
    return self.story.add(now_s, event, commands)     each of them carries the event from now on
    with self.story.told():                           a failed `check` says what led to it

A story is read by people who look for a fault, so it tells kinds, numbers and names, and of a collection or of bytes
only how many: prompts, tokens and secrets never stand in it.
"""

from collections import deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import TypeVar

import msgspec

MAX_ENTRIES = 300
MAX_TEXT = 80
"""Characters of one string that are told."""
MAX_DEPTH = 4
"""Records within records that are told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caused:
    """Base of every command: what a state machine wants done, and the event that made it want that."""

    cause: object = field(default=None, compare=False, repr=False)


CommandT = TypeVar("CommandT", bound=Caused)


@dataclass(frozen=True, slots=True)
class Entry:
    now_s: float
    event: object
    commands: Sequence[object]

    def tell(self) -> str:
        lines = [f"{self.now_s:12.3f} s  {in_words(self.event)}"]
        return "\n".join(lines + [f"{'':12}   -> {in_words(command)}" for command in self.commands])


class Story:
    """The last few hundred events of one state machine, each with the commands that answered it."""

    def __init__(self, max_entries: int = MAX_ENTRIES) -> None:
        self.entries: deque[Entry] = deque(maxlen=max_entries)

    def add(self, now_s: float, event: object, commands: list[CommandT]) -> list[CommandT]:
        """Remember this; returns the commands with `event` as their cause."""
        self.remember(now_s, event, commands)
        return [replace(command, cause=event) for command in commands]

    def remember(self, now_s: float, event: object, commands: Sequence[object]) -> None:
        """Remember this. For records that should not be kept, hand over a sentence in their place."""
        self.entries.append(Entry(now_s, event, commands))

    def tell(self) -> str:
        """One paragraph an event, the oldest first."""
        if not self.entries:
            return "Nothing has happened yet."
        count = len(self.entries)
        title = f"The last {count} events, the latest at the end:" if count > 1 else "The only event:"
        return "\n".join([title, *(entry.tell() for entry in self.entries)])

    @contextmanager
    def told(self) -> Iterator[None]:
        """An `AssertionError` from within leaves with the story behind its own words."""
        try:
            yield
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.tell()}") from error


def in_words(value: object, depth: int = 0) -> str:
    """A record as `Name(field=…, …)` without what is long or private in it."""
    match value:
        case str():
            return value if len(value) <= MAX_TEXT else f"{value[:MAX_TEXT]}…"
        case bytes() | bytearray() | memoryview():
            return f"<{len(value)} bytes>"
        case None | bool() | int() | float():
            return str(value)
        case Exception():
            return f"{type(value).__name__}({in_words(str(value))})"
        case Collection():
            return f"<{len(value)} items>"
    named = _fields(value)
    if not named or depth >= MAX_DEPTH:
        return type(value).__name__
    told = ", ".join(f"{name}={in_words(part, depth + 1)}" for name, part in named)
    return f"{type(value).__name__}({told})"


def _fields(value: object) -> list[tuple[str, object]]:
    if is_dataclass(value):
        return [(each.name, getattr(value, each.name)) for each in fields(value) if each.repr]
    if isinstance(value, msgspec.Struct):
        return [(name, getattr(value, name)) for name in value.__struct_fields__]
    return []
