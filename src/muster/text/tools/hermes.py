"""Hermes, Qwen 2.5 and 3, and many fine-tunes: each call an object of JSON between tags.

<tool_call>
{"name": "get_weather", "arguments": {"city": "Paris"}}
</tool_call>
"""

from muster.text.tools.call_form import CallForm
from muster.text.tools.json_call import json_call
from muster.text.tools.source import Source, Steps
from muster.text.tools.turn import AssistantTurn, attempt

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"


class Hermes:
    name = "hermes"
    marks = (_OPEN, _CLOSE)
    always = False
    form = CallForm(_OPEN, '\n{"name": "NAME", "arguments": ', "}\n" + _CLOSE, between="\n")

    def read(self, source: Source, turn: AssistantTurn) -> Steps[None]:
        while (yield from source.until((_OPEN,), turn.say)) is not None:
            if (yield from attempt(source, turn, _call(source, turn), _OPEN)) and not turn.unfinished:
                turn.say((yield from source.space()))
                yield from source.skip(_CLOSE)


def _call(source: Source, turn: AssistantTurn) -> Steps[None]:
    yield from source.space()
    yield from json_call(source, turn)
