"""The events of one answer, as parsers tell them; and how a call is tried that may turn out to be none.

White space between the parts of an answer belongs to the model's format and is nobody's text.
"""

import re
from collections.abc import Mapping
from hashlib import blake2s
from typing import Any

from muster.text.tools.events import CallArguments, CallBegun, CallEnded, Event, Said, Thought
from muster.text.tools.source import NoCall, Source, Steps

MAX_CALLS = 128
"""Of one answer; what a model writes beyond them is text."""
Schemas = Mapping[str, Mapping[str, Any]]
"""Of the arguments of each tool that there is, by its name."""
NAME = re.compile(r"[a-zA-Z0-9_.-]{1,128}")


class AssistantTurn:
    """Takes what parsers find. Pure."""

    def __init__(self, request_id: str, schemas: Schemas, at_most: int = MAX_CALLS) -> None:
        self.schemas = schemas
        self._request_id, self._at_most = request_id, at_most
        self._events: list[Event] = []
        self._held: list[str] = []
        """White space that may turn out to stand before a call."""
        self._after_block = False
        self._thinks = False
        self._open = self._broke_off = False
        self.calls = 0

    @property
    def unfinished(self) -> bool:
        """A call has begun, and its arguments have not ended."""
        return self._open or self._broke_off

    @property
    def over(self) -> bool:
        """There are as many calls as there may be."""
        return self.calls == self._at_most and not self._open

    def take(self) -> tuple[Event, ...]:
        events, self._events = tuple(self._events), []
        return events

    def say(self, text: str) -> None:
        self._flow(Said, text)

    def think(self, text: str) -> None:
        self._flow(Thought, text)

    def end_block(self) -> None:
        """What follows is something else: the white space around it goes."""
        self._held.clear()
        self._after_block = True

    def begin(self, name: str) -> None:
        """Raises `NoCall` where no call can be."""
        if not NAME.fullmatch(name) or self.calls >= self._at_most:
            raise NoCall
        self._held.clear()
        self._events.append(CallBegun(self.calls, call_id(self._request_id, self.calls), name))
        self.calls += 1
        self._open, self._broke_off = True, self.unfinished

    def argue(self, text: str) -> None:
        if not text:
            return
        last = self._events[-1] if self._events else None
        if isinstance(last, CallArguments):
            text = last.text + text
            self._events.pop()
        self._events.append(CallArguments(self.calls - 1, text))

    def end(self) -> None:
        self._events.append(CallEnded(self.calls - 1))
        self._open = False
        self.end_block()

    def finish(self) -> None:
        """No more comes: white space that was held back is text after all."""
        held, self._held = "".join(self._held), []
        if held and not self._thinks:
            self._events.append(Said(held))

    def _flow(self, kind: type[Said] | type[Thought], text: str) -> None:
        if self._after_block:
            text = text.lstrip()
        body = text.rstrip()
        self._thinks = kind is Thought
        if body:
            self._after_block = False
            self._events.append(kind("".join(self._held) + body))
            self._held = [text[len(body) :]]
        elif text:
            self._held.append(text)


def call_id(request_id: str, index: int) -> str:
    return "call_" + blake2s(f"{request_id}/{index}".encode(), digest_size=12, person=b"call").hexdigest()


def attempt(source: Source, turn: AssistantTurn, call: Steps[None], mark: str = "") -> Steps[bool]:
    """Read what may be a call, after `mark`. If it is none, all that was read is text. Says whether a call began."""
    source.begin_attempt()
    try:
        yield from call
    except NoCall:
        read = source.end_attempt()
        if read is not None:
            turn.say(mark + read)
            return False
    return True


def begin_call(source: Source, turn: AssistantTurn, name: str) -> None:
    turn.begin(name)
    source.end_attempt()
