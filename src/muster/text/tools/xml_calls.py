"""Families that write each argument between tags of its own.

Qwen3-Coder:                          GLM 4.5 and later:

    <tool_call>                           <tool_call>get_weather
    <function=get_weather>                <arg_key>city</arg_key>
    <parameter=city>                      <arg_value>Paris</arg_value>
    Paris                                 </tool_call>
    </parameter>
    </function>
    </tool_call>

What is text and what a number, the tags do not say: the tool's schema does.
"""

import re

from muster.text.tools.arguments import ObjectWriter, argument, text_until
from muster.text.tools.call_form import CallForm
from muster.text.tools.json_call import json_call
from muster.text.tools.source import NoCall, Source, Steps
from muster.text.tools.turn import AssistantTurn, attempt

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_NAME_END = re.compile(r"[<\n]")


class QwenCoder:
    name = "qwen3_coder"
    marks = (_OPEN, _CLOSE)
    always = False
    form = CallForm(
        _OPEN,
        "\n<function=NAME>\n",
        "</function>\n" + _CLOSE,
        between="\n",
        parameter=("<parameter=KEY>\n", "\n</parameter>\n"),
    )

    def read(self, source: Source, turn: AssistantTurn) -> Steps[None]:
        while (mark := (yield from source.until((_OPEN, "<function="), turn.say))) is not None:
            if (yield from attempt(source, turn, self._call(source, turn, mark), mark)) and not turn.unfinished:
                turn.say((yield from source.space()))
                yield from source.skip(_CLOSE)

    @staticmethod
    def _call(source: Source, turn: AssistantTurn, mark: str) -> Steps[None]:
        if mark == _OPEN:
            yield from source.space()
            if (yield from source.peek(1)) == "{":  # some write Hermes' form all the same
                yield from json_call(source, turn)
                return
            if not (yield from source.skip("<function=")):
                raise NoCall
        writer = ObjectWriter(source, turn, (yield from text_until(source, ">")))
        while True:
            mark = (yield from source.until(("<parameter=", "</function>", _CLOSE), _nowhere)) or ""
            if mark != "<parameter=":
                break
            key: list[str] = []
            if (yield from source.until((">",), key.append)) is None:
                return
            if not (yield from argument(source, writer, "".join(key), "</parameter>", in_lines=True)):
                return
        if mark:
            writer.end()


class Glm:
    name = "glm"
    marks = (_OPEN, _CLOSE, "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>")
    always = False
    form = CallForm(
        _OPEN, "NAME\n", _CLOSE, between="\n", parameter=("<arg_key>KEY</arg_key>\n<arg_value>", "</arg_value>\n")
    )

    def read(self, source: Source, turn: AssistantTurn) -> Steps[None]:
        while (yield from source.until((_OPEN,), turn.say)) is not None:
            yield from attempt(source, turn, self._call(source, turn), _OPEN)

    @staticmethod
    def _call(source: Source, turn: AssistantTurn) -> Steps[None]:
        name: list[str] = []
        yield from source.space()
        if not (yield from source.matching(_NAME_END, name.append)):
            raise NoCall
        yield from source.space()
        if not (yield from source.peek(12)).startswith((_CLOSE, "<arg_key>")):
            raise NoCall
        writer = ObjectWriter(source, turn, "".join(name).strip())
        while (mark := (yield from source.until(("<arg_key>", _CLOSE), _nowhere))) == "<arg_key>":
            key: list[str] = []
            if (yield from source.until(("</arg_key>",), key.append)) is None:
                return
            if (yield from source.until(("<arg_value>",), _nowhere)) is None:
                return
            if not (yield from argument(source, writer, "".join(key).strip(), "</arg_value>", in_lines=False)):
                return
        if mark:
            writer.end()


def _nowhere(text: str) -> None:
    pass
