"""Messages to a prompt, by the model's own chat template. Knows nothing of tokens or HTTP.

Templates are Jinja programs that come with a model. They run in a sandbox, a process of its own with limits. Each
message gets the form that the template reads, and none may be left out (`text/sandbox/turns.py`).

A template that knows no tools gets them in plain words (`tools/fallback`).

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

from muster.text.calls import Ending, Render, Tool
from muster.text.calls import Message as Message
from muster.text.tokenizer import Tokenizer
from muster.text.tools.fallback import in_plain_words, with_names_of_results

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
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    variables: Mapping[str, Any] | None = None,
    tools: Sequence[Tool] = (),
    ending: Ending = Ending.ASSISTANT_BEGINS,
) -> RenderedChat:
    """The prompt. `variables` are the template's own, such as `enable_thinking`.

    Raises `InvalidRequest` where the template refuses the messages or would leave one out, `Unsupported` where it
    broke its limits, now or before.
    """
    work = _work(tokenizer, messages, variables, tools, ending)
    if not tokenizer.has_chat_template:
        return _render_plain(work)
    return RenderedChat(tokenizer.rendering(work).result(), add_special_tokens=False)


async def render_chat_soon(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    variables: Mapping[str, Any] | None = None,
    tools: Sequence[Tool] = (),
    ending: Ending = Ending.ASSISTANT_BEGINS,
) -> RenderedChat:
    """`render_chat` that leaves the event loop to others."""
    work = _work(tokenizer, messages, variables, tools, ending)
    if not tokenizer.has_chat_template:
        return _render_plain(work)
    return RenderedChat(await asyncio.wrap_future(tokenizer.rendering(work)), add_special_tokens=False)


def _work(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    variables: Mapping[str, Any] | None,
    tools: Sequence[Tool],
    ending: Ending,
) -> Render:
    named = with_names_of_results(messages)
    if not tokenizer.conventions.takes_tools:
        named, tools = in_plain_words(named, tools, tokenizer.conventions.takes_system), ()
    return Render(named, dict(variables or {}), list(tools), ending)


def _render_plain(work: Render) -> RenderedChat:
    turns = [f"{_PLAIN_NAMES[message.role]}: {message.content}" for message in work.messages]
    text = "\n\n".join([*turns, "Assistant:"] if work.ending == Ending.ASSISTANT_BEGINS else turns)
    end = "\n\n" if work.ending == Ending.AFTER_LAST else ""
    return RenderedChat(text + end, add_special_tokens=True, stop=(_PLAIN_STOP,))
