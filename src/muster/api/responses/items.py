"""The items of a Responses body as messages. Knows no fields besides, and no tokens."""

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from muster.api.fields import check_unicode
from muster.api.tool_fields import read_call
from muster.errors import InvalidRequest, Unsupported
from muster.text.calls import Message

MAX_ITEMS = 10_000
_ROLES = ("system", "developer", "user", "assistant")
_TEXTS = {"input_text": "text", "output_text": "text", "text": "text", "refusal": "refusal"}


def read_input(written: str | Sequence[Any]) -> tuple[Message, ...]:
    """Checked messages. Calls that follow an assistant's words, or each other, are of one message."""
    if isinstance(written, str):
        return (Message("user", check_unicode(written, "input")),)
    messages: list[Message] = []
    thought: str | None = None
    for i, item in enumerate(written):
        path = f"input[{i}]"
        if not isinstance(item, dict):
            raise InvalidRequest("An item is not an object; send a message, or what an earlier answer held.", path)
        if item.get("type") == "reasoning":
            thought = _thought(item, path)
            continue
        message = _read_item(item, path)
        if message.role == "assistant":
            message, thought = replace(message, reasoning=thought), None
            if message.tool_calls and messages and messages[-1].role == "assistant":
                before = messages.pop()
                calls = before.tool_calls + message.tool_calls
                message = replace(before, tool_calls=calls, reasoning=before.reasoning or message.reasoning)
        messages.append(message)
    return tuple(messages)


def _read_item(item: dict[str, Any], path: str) -> Message:
    kind = item.get("type", "message")
    if kind == "message":
        return _read_message(item, path)
    if kind == "function_call":
        return Message("assistant", "", tool_calls=(read_call(_call_id(item, path), item, path),))
    if kind == "function_call_output":
        output = item.get("output")
        text = check_unicode(output, path) if isinstance(output, str) else _texts(output, f"{path}.output")
        return Message("tool", text, tool_call_id=_call_id(item, path))
    raise Unsupported(
        f"This server does not do items of type '{str(kind)[:50]}'; send messages, function calls and their outputs.",
        f"{path}.type",
    )


def _read_message(item: dict[str, Any], path: str) -> Message:
    role, content = item.get("role"), item.get("content")
    if role not in _ROLES:
        raise InvalidRequest(f"The role is none of {', '.join(_ROLES)}; use one of them.", f"{path}.role")
    text = check_unicode(content, path) if isinstance(content, str) else _texts(content, f"{path}.content")
    return Message(role, text)


def _texts(parts: Any, path: str) -> str:
    if not isinstance(parts, list):
        raise InvalidRequest("The content is neither text nor a list of parts; correct it.", path)
    return "".join(_text(part, f"{path}[{i}]") for i, part in enumerate(parts))


def _text(part: Any, path: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(kind, str):
        raise InvalidRequest("A part has no type; add it.", path)
    if kind not in _TEXTS:
        raise Unsupported(f"This model reads text only, not '{kind[:50]}'; send text.", f"{path}.type")
    text = part.get(_TEXTS[kind])
    if not isinstance(text, str):
        raise InvalidRequest("A text part has no text; add it.", f"{path}.{_TEXTS[kind]}")
    return check_unicode(text, path)


def _thought(item: dict[str, Any], path: str) -> str | None:
    parts = item.get("content")
    if not isinstance(parts, list):
        return None
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    return check_unicode("".join(text for text in texts if isinstance(text, str)), path) or None


def _call_id(item: dict[str, Any], path: str) -> str:
    id = item.get("call_id")
    if not isinstance(id, str) or not id:
        raise InvalidRequest("An item does not say which call it is of; add its call_id.", f"{path}.call_id")
    return check_unicode(id, f"{path}.call_id")
