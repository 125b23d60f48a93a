"""Mistral: a token announces the calls.

Since Mistral Small 3.2:   [TOOL_CALLS]get_weather[ARGS]{"city": "Paris"}[TOOL_CALLS]...
                           with [CALL_ID]... before [ARGS] in some

Before:                    [TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Paris"}}, ...]
"""

import re

from muster.text.tools.call_form import CallForm
from muster.text.tools.json_call import arguments, json_call
from muster.text.tools.source import NoCall, Source, Steps
from muster.text.tools.turn import AssistantTurn, attempt, begin_call

CALLS, ARGUMENTS, ID = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"
_NAME_END = re.compile(r"[\[{]")


class Mistral:
    marks = (CALLS, ARGUMENTS, ID)
    always = False

    def __init__(self, listed: bool) -> None:
        """`listed`: the older form. Both are read."""
        self.name = "mistral_list" if listed else "mistral"
        self.form = (
            CallForm(CALLS, '{"name": "NAME", "arguments": ', "}", between=", ", group=("[", "]"))
            if listed
            else CallForm(CALLS, "NAME" + ARGUMENTS, "")
        )

    def read(self, source: Source, turn: AssistantTurn) -> Steps[None]:
        while (yield from source.until((CALLS,), turn.say)) is not None:
            begun = yield from attempt(source, turn, _first_call(source, turn), CALLS)
            while begun and not turn.unfinished:
                yield from source.space()
                if not (yield from source.skip(",")):
                    yield from source.skip("]")
                    break
                begun = yield from attempt(source, turn, _listed_call(source, turn), ",")


def _first_call(source: Source, turn: AssistantTurn) -> Steps[None]:
    yield from source.space()
    if (yield from source.skip("[")):
        yield from _listed_call(source, turn)
        return
    name: list[str] = []
    yield from source.matching(_NAME_END, name.append)
    if (yield from source.skip(ID)):
        yield from source.matching(_NAME_END, lambda id: None)
    yield from source.skip(ARGUMENTS)
    yield from source.space()
    if (yield from source.peek()) != "{":
        raise NoCall
    begin_call(source, turn, "".join(name).strip())
    yield from arguments(source, turn)


def _listed_call(source: Source, turn: AssistantTurn) -> Steps[None]:
    yield from source.space()
    yield from json_call(source, turn)
