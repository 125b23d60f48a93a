"""Messages to a prompt, by the model's own chat template. Knows nothing of tokens or HTTP.

Templates are Jinja, rendered by `transformers` in its immutable sandbox: no files, no attributes that begin with an
underscore, no changes to what is passed in.

A model without a template gets the plain form below, and a stop string so that it does not go on to write the user's
next turn:

    System: You are terse.

    User: Name a colour.

    Assistant:
"""

from collections.abc import Sequence
from dataclasses import dataclass

from muster.errors import InvalidRequest
from muster.text.tokenizer import Tokenizer

_PLAIN_NAMES = {"system": "System", "developer": "System", "user": "User", "assistant": "Assistant"}
_PLAIN_STOP = "\nUser:"


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    """system, developer, user or assistant."""
    content: str
    name: str | None = None


@dataclass(frozen=True, slots=True)
class RenderedChat:
    text: str
    add_special_tokens: bool
    """False where the template already wrote the begin-of-text token."""
    stop: tuple[str, ...] = ()
    """Stop strings that the form needs besides the end-of-text token."""


def render_chat(tokenizer: Tokenizer, messages: Sequence[Message]) -> RenderedChat:
    """The prompt at whose end the assistant speaks. Raises `InvalidRequest` where the template refuses."""
    template = tokenizer.chat_template
    if template is None:
        return _render_plain(messages)
    knows_developer = "developer" in str(template)
    conversation = [_as_template_message(message, knows_developer) for message in messages]
    try:
        text = tokenizer.hugging_face.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template may raise anything, and it is the messages that it raises about
        reason = str(error).strip() or type(error).__name__
        raise InvalidRequest(
            f"The model's chat template refuses these messages ({reason[:200]}); change their roles or their order.",
            "messages",
        ) from error
    return RenderedChat(text, add_special_tokens=False)


def _as_template_message(message: Message, knows_developer: bool) -> dict[str, str]:
    role = "system" if message.role == "developer" and not knows_developer else message.role
    fields = {"role": role, "content": message.content}
    return fields if message.name is None else {**fields, "name": message.name}


def _render_plain(messages: Sequence[Message]) -> RenderedChat:
    turns = "".join(f"{_PLAIN_NAMES[message.role]}: {message.content}\n\n" for message in messages)
    return RenderedChat(turns + "Assistant:", add_special_tokens=True, stop=(_PLAIN_STOP,))
