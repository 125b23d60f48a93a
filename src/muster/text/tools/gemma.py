"""Gemma's own notation for calls, in which names are bare and strings stand between marks.

FunctionGemma:   <start_function_call>call:get_weather{city:<escape>Paris<escape>,days:2}<end_function_call>
Gemma 4:         <|tool_call>call:get_weather{city:<|"|>Paris<|"|>,days:2}<tool_call|>

Gemma 2 and 3 know no tools and get the fallback prompt.
"""

import json
import re

from muster.text.tools.arguments import as_json
from muster.text.tools.call_form import CallForm
from muster.text.tools.json_call import arguments
from muster.text.tools.source import NoCall, Source, Steps
from muster.text.tools.turn import AssistantTurn, attempt, begin_call

MAX_DEPTH = 64
MAX_SPACE = 100
"""Characters before the first name."""
_NAME_END = re.compile(r"[{<\s]")


class Gemma:
    always = False

    def __init__(self, name: str, begin: str, end: str, quote: str) -> None:
        self.name, self.begin, self.end, self.quote = name, begin, end, quote
        self.marks = (begin, end, quote)
        # Held to a schema the arguments are JSON, which is read as well: the notation has no grammar of its own.
        self.form = CallForm(begin, "call:NAME", end)

    def read(self, source: Source, turn: AssistantTurn) -> Steps[None]:
        while (yield from source.until((self.begin,), turn.say)) is not None:
            if (yield from attempt(source, turn, self._call(source, turn), self.begin)) and not turn.unfinished:
                turn.say((yield from source.space()))
                yield from source.skip(self.end)

    def _call(self, source: Source, turn: AssistantTurn) -> Steps[None]:
        name: list[str] = []
        yield from source.space()
        if not (yield from source.skip("call:")):
            raise NoCall
        yield from source.matching(_NAME_END, name.append)
        if (yield from source.peek()) != "{":
            raise NoCall
        begin_call(source, turn, "".join(name))
        if (yield from _is_json(source)):
            yield from arguments(source, turn)
        elif (yield from self._object(source, turn)):
            turn.end()

    def _object(self, source: Source, turn: AssistantTurn) -> Steps[bool]:
        """Read up to the brace that closes the first. False if it breaks off, or nothing makes sense."""
        marks = (self.quote, *"{}[],:")
        word: list[str] = []
        open_: list[str] = []
        while (mark := (yield from source.until(marks, word.append))) is not None:
            written = "".join(word).strip()
            word.clear()
            if mark == self.quote:
                turn.argue('"')
                if (yield from source.until((self.quote,), lambda text: turn.argue(_escaped(text)))) is None:
                    return False
                turn.argue('"')
                continue
            if mark in "{[":
                open_.append(mark)
            elif written:
                turn.argue(json.dumps(written, ensure_ascii=False) if mark == ":" else as_json(written))
            turn.argue(mark + " " * (mark in ",:"))
            if mark in "}]" and "{[".index(open_.pop()) != "}]".index(mark):
                return False
            if not open_:
                return True
            if len(open_) > MAX_DEPTH:
                return False
        return False


def _is_json(source: Source) -> Steps[bool]:
    """An object of JSON begins after all."""
    for count in range(2, MAX_SPACE):
        ahead = "".join((yield from source.peek(count)).split())
        if ahead != "{":
            return ahead.startswith('{"')
    return False


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]
