"""Llama 3: the answer is a call, or calls with semicolons between them.

    {"name": "get_weather", "parameters": {"city": "Paris"}}

Some write `<|python_tag|>` before it. An object that names none of the tools is text.
"""

from muster.text.tools.call_form import CallForm
from muster.text.tools.json_call import json_call
from muster.text.tools.source import Source, Steps
from muster.text.tools.turn import AssistantTurn, attempt

_TAG = "<|python_tag|>"


class Llama:
    name = "llama3_json"
    marks = (_TAG,)
    always = False
    form = CallForm("", '{"name": "NAME", "parameters": ', "}", between="; ")

    def read(self, source: Source, turn: AssistantTurn) -> Steps[None]:
        space = yield from source.space()
        if (yield from source.peek()) == "{":
            yield from self._calls(source, turn, space)
        else:
            turn.say(space)
        while (yield from source.until((_TAG,), turn.say)) is not None:
            yield from self._calls(source, turn, _TAG)

    @staticmethod
    def _calls(source: Source, turn: AssistantTurn, mark: str) -> Steps[None]:
        while (yield from attempt(source, turn, _call(source, turn), mark)) and not turn.unfinished:
            space = yield from source.space()
            if not (yield from source.skip(";")):
                turn.say(space)
                return
            mark = ";"


def _call(source: Source, turn: AssistantTurn) -> Steps[None]:
    yield from source.space()
    yield from json_call(source, turn, turn.schemas)
