"""What an answer must be where calls are demanded, or must be valid once they begin: a grammar of the family's form.

    start     reasoning, where the model reasons, then:
    required  calls and nothing else
    strict    text; a call that begins is one of the tools and fits its schema
    answer    calls, or what the text of an answer must be (`Conversation.grammar`)

Grammars are Lark text in the dialect of llguidance. Marks that are tokens of their own are named by id. Pure.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from muster.errors import Unsupported
from muster.text.calls import Tool
from muster.text.constraint import json_rule, text_terminal
from muster.text.tools.arguments import is_text, properties_of
from muster.text.tools.call_form import CallForm
from muster.text.tools.harmony import CHANNEL, MESSAGE, START
from muster.text.tools.reading import Reading

_ANY = "TEXT: /(.|\\n)*/"
_SPACE = "SPACE: /[ \\n]{0,4}/"
_NO_BRACE = "NO_CALL: /([^{ \\t\\r\\n](.|\\n)*)?/"
_KEY = re.compile(r"[^<>\n]{1,200}")
_OF_TEXT = ("pattern", "format", "minLength", "maxLength", "contentEncoding")
"""What a schema may ask of a string, and a family that writes strings without quotes cannot promise."""
_DEFINITIONS = ("$defs", "definitions")


@dataclass(frozen=True, slots=True)
class CallDemand:
    """What the calls of an answer are held to."""

    tools: Sequence[Tool]
    """Those that may be called."""
    required: bool
    """There must be a call."""
    answer: str = ""
    """Where there is none, the text must fit this grammar; empty: any text does."""

    @property
    def any(self) -> bool:
        """Something is demanded."""
        return self.required or bool(self.answer) or any(tool.strict for tool in self.tools)


def grammar_of_answer(reading: Reading | None, demand: CallDemand) -> str:
    """Empty where anything will do. Raises `InvalidRequest` for what cannot be held to."""
    if not demand.any:
        return ""
    if reading is None:
        return demand.answer
    return _Writer(reading, demand).grammar()


class _Writer:
    def __init__(self, reading: Reading, demand: CallDemand) -> None:
        self._reading, self._demand = reading, demand
        self._ids = {mark.decode(): id for id, mark in reading.spelled.items()}
        self._lines: list[str] = []
        marks = sorted(self._ids, key=len, reverse=True)
        self._marks = re.compile("(" + "|".join(map(re.escape, marks)) + ")") if marks else None

    def grammar(self) -> str:
        family = self._reading.family
        if family is not None and family.always:
            content = self._in_messages()
        elif family is None or not self._demand.tools:
            content = self._answer()
        else:
            content = self._content()
        self._lines += [f"start: {self._thought()} {content}", _ANY, _SPACE, _NO_BRACE]
        return "\n".join(self._lines)

    def _thought(self) -> str:
        tags = self._reading.tags
        if tags is None:
            return ""
        inside = f"{self._up_to('thought', tags.end)} SPACE"
        return inside if self._reading.begins_in_thought else f"(SPACE {self._text(tags.begin)} {inside})?"

    def _content(self) -> str:
        """Of a family that writes text as it is."""
        calls = self._calls()
        if self._demand.required:
            return calls
        if self._demand.answer:
            return f"({calls} | {self._answer()})"
        if not self._form.trigger:
            return f"({calls} | NO_CALL)"
        lead = self._up_to("lead", self._form.trigger)
        return f"({lead} {self._after_trigger()})* TEXT"

    def _in_messages(self) -> str:
        """Of a family whose text is in messages on channels."""
        header = self._text(CHANNEL)
        before = f'{header} ("analysis" | "commentary") {self._text(MESSAGE)} {self._up_to("message", "<|end|>")}'
        self._lines.append(f'before: {before} {self._text(START)} "assistant"')
        final = f'{header} "final" {self._text(MESSAGE)} {self._answer() if self._demand.answer else "TEXT"}'
        last = [] if self._demand.required else [final]
        if self._demand.tools:
            last.append(f"{header} {self._call()}")
        return f"before* ({' | '.join(last)})"

    @property
    def _form(self) -> CallForm:
        assert self._reading.family is not None
        return self._reading.family.form

    def _calls(self) -> str:
        """One or more."""
        trigger, after, between = self._text(self._form.trigger), self._after_trigger(), self._text(self._form.between)
        more = self._reading.max_calls - 1
        if self._form.group is not None:
            return f"{trigger} {after}"
        return f"{trigger} {after} {_up_to_so_many(f'{between} {trigger} {after}', more)}"

    def _after_trigger(self) -> str:
        call, more = self._call(), self._reading.max_calls - 1
        if self._form.group is None:
            return call
        opening, closing = map(self._text, self._form.group)
        return f"{opening} {call} {_up_to_so_many(f'{self._text(self._form.between)} {call}', more)} {closing}"

    def _call(self) -> str:
        """The rule `call`, written once."""
        if not any(line.startswith("call:") for line in self._lines):
            names = []
            for i, tool in enumerate(self._demand.tools):
                head = self._text(self._form.head.replace("NAME", tool.name))
                self._lines.append(f"call_{i}: {head} {self._arguments_and_tail(i, tool)}")
                names.append(f"call_{i}")
            self._lines.append(f"call: {' | '.join(names)}")
        return "call"

    def _arguments_and_tail(self, i: int, tool: Tool) -> str:
        held, form = self._demand.required or tool.strict, self._form
        if form.parameter is None:
            self._lines.append(f"arguments_{i}: {json_rule(_object(tool) if held else {'type': 'object'})}")
            return f"arguments_{i} {self._text(form.tail)}"
        if not held:
            return self._up_to(f"arguments_{i}", form.tail)
        return f"{self._parameters(i, tool, *form.parameter)} {self._text(form.tail)}"

    def _parameters(self, i: int, tool: Tool, before: str, after: str) -> str:
        required, written = tool.parameters.get("required") or (), []
        for j, (key, schema) in enumerate(properties_of(tool.parameters).items()):
            if not _KEY.fullmatch(key):
                raise Unsupported(f"This model cannot be held to the argument {key[:50]!r}; rename it.", "tools")
            rule = f"argument_{i}_{j}"
            self._lines.append(
                f"{rule}: {self._text(before.replace('KEY', key))} {self._value(rule, tool, schema, after)}"
            )
            written.append(rule if key in required else f"{rule}?")
        return " ".join(written)

    def _value(self, rule: str, tool: Tool, schema: Any, after: str) -> str:
        if not is_text(schema):
            shared = {name: tool.parameters[name] for name in _DEFINITIONS if name in tool.parameters}
            value = {**schema, **shared} if isinstance(schema, dict) else schema
            self._lines.append(f"{rule}_value: {json_rule(value)}")
            return f"{rule}_value {self._text(after)}"
        choices = schema.get("enum", [schema["const"]] if "const" in schema else None)
        if choices is not None:
            return f"({' | '.join(text_terminal(str(choice)) for choice in choices)}) {self._text(after)}"
        asked = next((word for word in _OF_TEXT if word in schema), None)
        if asked is not None and tool.strict:
            raise Unsupported(
                f"This model writes arguments without quotes, and cannot be held to '{asked}'; leave it or strict out.",
                "tools",
            )
        return self._up_to(f"{rule}_text", after)

    def _answer(self) -> str:
        """The rule `answer`: its grammar with another name for the start."""
        self._lines.append(re.sub(r"^start(?=\s*[:\[{])", "answer", self._demand.answer, flags=re.MULTILINE))
        return "answer"

    def _up_to(self, rule: str, mark: str) -> str:
        """Any text, and the mark that is not in it."""
        first, *more = self._parts(mark)
        rest = self._text("".join(more))
        if first in self._ids:
            return f"TEXT {self._text(first)} {rest}"
        self._lines.append(f"{rule}[lazy]: TEXT {text_terminal(first)}")
        return f"{rule} {rest}"

    def _text(self, text: str) -> str:
        parts = self._parts(text)
        return " ".join(f"<[{self._ids[part]}]>" if part in self._ids else text_terminal(part) for part in parts)

    def _parts(self, text: str) -> list[str]:
        """Tokens, and what stands between them."""
        return [part for part in (self._marks.split(text) if self._marks else [text]) if part]


def _up_to_so_many(what: str, most: int) -> str:
    return f"({what}){{0,{most}}}" if most else ""


def _object(tool: Tool) -> Mapping[str, Any]:
    """Arguments are an object, whatever else the schema says."""
    return tool.parameters if "type" in tool.parameters else {"type": "object", **tool.parameters}
