"""Messages to a prompt, by the model's own chat template. Knows nothing of tokens or HTTP.

Templates are Jinja programs that come with a model. They run in a sandbox, a process of its own with limits. Each
message gets the form that the template reads, and none may be left out (`text/sandbox/turns.py`).

A model without a template gets the plain form below, and a stop string so that it does not go on to write the user's
next turn:

    System: You are terse.

    User: Name a colour.

    Assistant:
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from muster.text.calls import Message as Message
from muster.text.tokenizer import Tokenizer

_PLAIN_NAMES = {"system": "System", "developer": "System", "user": "User", "assistant": "Assistant"}
_PLAIN_STOP = "\nUser:"


@dataclass(frozen=True, slots=True)
class RenderedChat:
    text: str
    add_special_tokens: bool
    """False where the template already wrote the begin-of-text token."""
    stop: tuple[str, ...] = ()
    """Stop strings that the form needs besides the end-of-text token."""


def render_chat(
    tokenizer: Tokenizer, messages: Sequence[Message], variables: Mapping[str, Any] | None = None
) -> RenderedChat:
    """The prompt at whose end the assistant speaks. `variables` are the template's own, such as `enable_thinking`.

    Raises `InvalidRequest` where the template refuses the messages or would leave one out, `Unsupported` where it
    broke its limits, now or before.
    """
    if not tokenizer.has_chat_template:
        return _render_plain(messages)
    return RenderedChat(tokenizer.rendering(messages, variables or {}).result(), add_special_tokens=False)


async def render_chat_soon(
    tokenizer: Tokenizer, messages: Sequence[Message], variables: Mapping[str, Any] | None = None
) -> RenderedChat:
    """`render_chat` that leaves the event loop to others."""
    if not tokenizer.has_chat_template:
        return _render_plain(messages)
    text = await asyncio.wrap_future(tokenizer.rendering(messages, variables or {}))
    return RenderedChat(text, add_special_tokens=False)


def _render_plain(messages: Sequence[Message]) -> RenderedChat:
    turns = "".join(f"{_PLAIN_NAMES[message.role]}: {message.content}\n\n" for message in messages)
    return RenderedChat(turns + "Assistant:", add_special_tokens=True, stop=(_PLAIN_STOP,))
