"""The forms that a chat template may want a conversation in, and whether one of them lost something. Tries nothing."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2s
from itertools import combinations, product
from typing import Any

import msgspec

from muster.text.calls import Message, Render, Tool, ToolCall

_REASONING = ("reasoning_content", "thinking", "reasoning")
"""What templates call an assistant's reasoning."""


@dataclass(frozen=True, slots=True)
class Form:
    developer: str = "system"
    """The role under which developers speak."""
    in_parts: frozenset[str] = frozenset()
    """Roles whose content is a list of parts."""
    arguments_as_text: bool = False
    """JSON text, and not the object."""
    absent_as_none: bool = False
    """An assistant that only calls has no content, and not an empty one."""
    short_ids: bool = False
    """Nine letters and digits, as Mistral's templates demand."""
    reasoning: str | None = None

    def of(self, message: Message) -> dict[str, Any]:
        role = self.developer if message.role == "developer" else message.role
        fields: dict[str, Any] = {"role": role, "content": self._content(role, message)}
        if message.name is not None:
            fields["name"] = message.name
        if message.tool_calls:
            fields["tool_calls"] = [self._of_call(call) for call in message.tool_calls]
        if message.tool_call_id is not None:
            fields["tool_call_id"] = self._id(message.tool_call_id)
        if message.reasoning and self.reasoning is not None:
            fields[self.reasoning] = message.reasoning
        return fields

    @staticmethod
    def of_tool(tool: Tool) -> dict[str, Any]:
        described = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
        return {"type": "function", "function": described}

    def _content(self, role: str, message: Message) -> Any:
        if self.absent_as_none and message.tool_calls and not message.content:
            return None
        return [{"type": "text", "text": message.content}] if role in self.in_parts else message.content

    def _of_call(self, call: ToolCall) -> dict[str, Any]:
        arguments = call.arguments if self.arguments_as_text else json.loads(call.arguments)
        return {"type": "function", "id": self._id(call.id), "function": {"name": call.name, "arguments": arguments}}

    def _id(self, id: str) -> str:
        return blake2s(id.encode(), digest_size=5).hexdigest()[:9] if self.short_ids else id


def forms_to_try(work: Render, source: str) -> Iterator[Form]:
    """Strings first: most templates want them, and one that prints what it gets would print the parts' names."""
    roles = {message.role for message in work.messages}
    calls = any(message.tool_calls for message in work.messages)
    reasoning = next((name for name in _REASONING if name in source), None)
    of_calls = list(product((False, True), repeat=3)) if calls else [(False, False, False)]
    developers = ("developer", "system") if "developer" in source else ("system",)
    for developer in developers if "developer" in roles else ("system",):
        here = sorted({developer if role == "developer" else role for role in roles}, reverse=True)
        for count in range(len(here) + 1):
            for in_parts, (short, absent, text) in product(combinations(here, count), of_calls):
                yield Form(developer, frozenset(in_parts), text, absent, short, reasoning)


def shape(work: Render) -> tuple[Any, ...]:
    """What the form depends on."""
    messages = tuple(
        (message.role, message.name is None, bool(message.content), len(message.tool_calls), bool(message.reasoning))
        for message in work.messages
    )
    return messages, len(work.tools), work.ending


def marked(work: Render) -> Render:
    """A conversation of the same shape in which each thing that is said can be told apart."""
    messages = [
        msgspec.structs.replace(
            message,
            content=f"qz{i}zq" if message.content or not message.tool_calls else "",
            tool_calls=tuple(
                ToolCall(call.id, f"qz{i}n{j}zq", json.dumps({f"qz{i}k{j}zq": f"qz{i}a{j}zq"}))
                for j, call in enumerate(message.tool_calls)
            ),
        )
        for i, message in enumerate(work.messages)
    ]
    tools = [Tool(f"qzt{i}zq", f"qzd{i}zq", _marked_schema(f"qzp{i}zq")) for i, _ in enumerate(work.tools)]
    return msgspec.structs.replace(work, messages=messages, tools=tools)


def _marked_schema(mark: str) -> dict[str, Any]:
    return {"type": "object", "properties": {mark: {"type": "string", "description": mark}}, "required": [mark]}


def first_lost(text: str, work: Render, form: Form) -> tuple[int, str] | None:
    """Of what was marked: how far it got, and what is missing there."""
    text = (_without_printed_parts(text) if form.in_parts else text).lower()
    for i, tool in enumerate(work.tools):
        if not all(mark in text for mark in (tool.name, tool.description, *tool.parameters["properties"])):
            return 0, f"tools[{i}]"
    for i, message in enumerate(work.messages):
        if message.content not in text:
            return i, f"messages[{i}] (from {message.role})"
        if not all(_is_written(call, text) for call in message.tool_calls):
            return i, f"messages[{i}].tool_calls"
    return None


def _is_written(call: ToolCall, text: str) -> bool:
    """Not as Python prints an object, nor as a text within a text."""
    ((key, value),) = json.loads(call.arguments).items()
    return all(mark in text for mark in (call.name, key, value)) and f"'{key}'" not in text and f'\\"{key}' not in text


def _without_printed_parts(text: str) -> str:
    """A template that wants a string prints a list as such, with braces and names: that is no form, either."""
    return re.sub(r"""["']text["']:\s*["'][^"']*["']""", "", text)
