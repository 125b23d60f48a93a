"""What is said between this process and its sandboxes: the work, and what came of it. Knows neither side.

A tokenizer and a chat template come with a model, so they are a stranger's program: regular expressions that never
end, loops, terabytes of the letter a. They run in a process of their own (`sandbox`), and each call says how much
that process may use.
"""

from enum import Enum
from typing import Any, Literal

import msgspec


class Limit(msgspec.Struct, frozen=True):
    """What one call may use. Time is that of the processor: a machine that is busy or asleep breaks no limit."""

    cpu_s: float
    memory_bytes: int
    """On top of what the process holds already. Not enforced where the system cannot (macOS)."""


class ToolCall(msgspec.Struct, frozen=True):
    """What an assistant asked for."""

    id: str
    name: str
    arguments: str
    """The JSON text of an object."""


class Message(msgspec.Struct, frozen=True):
    role: str
    """system, developer, user, assistant, or tool for the result of a call."""
    content: str
    """Empty where an assistant only calls tools."""
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    """The call that a tool's message answers."""
    reasoning: str | None = None
    """What an assistant thought before it spoke. Most templates leave that of earlier turns out."""


class Tool(msgspec.Struct, frozen=True):
    """What an assistant may ask for."""

    name: str
    description: str
    parameters: dict[str, Any]
    """JSON schema of the arguments."""
    strict: bool = False
    """A call of it must fit the schema."""


class Convert(msgspec.Struct, frozen=True, tag=True):
    """Read the tokenizer in a model directory, write its `Description` to the file, answer with its `Vocabulary`."""

    directory: str


class Load(msgspec.Struct, frozen=True, tag=True):
    """Take from the file what all later calls are about."""


class FindConventions(msgspec.Struct, frozen=True, tag=True):
    """Try the chat template, and say how it writes conversations."""


class Encode(msgspec.Struct, frozen=True, tag=True):
    text: str
    add_special_tokens: bool
    at_most: int | None = None
    """Of a text that certainly has more tokens than that, only so many need be found."""


class Ending(Enum):
    """How a prompt ends."""

    ASSISTANT_BEGINS = "assistant begins"
    """At the beginning of the assistant's turn."""
    AFTER_LAST = "after last"
    """After the last message, whoever's."""
    INSIDE_LAST = "inside last"
    """Within the last message, which is to be continued."""


class Render(msgspec.Struct, frozen=True, tag=True):
    messages: list[Message]
    variables: dict[str, Any]
    """For the template, besides the messages."""
    tools: list[Tool] = []
    ending: Ending = Ending.ASSISTANT_BEGINS


class CheckGrammar(msgspec.Struct, frozen=True, tag=True):
    """Answer with the grammar as Lark text, if it can be used."""

    grammar: str


Work = Convert | Load | FindConventions | Encode | Render | CheckGrammar


class Call(msgspec.Struct, frozen=True):
    limit: Limit
    work: Work


class Done(msgspec.Struct, frozen=True, tag=True):
    pass


class Spellings(msgspec.Struct, frozen=True):
    """The bytes of every id from 0 on, one after another: those of id i end at `ends[i]` (unsigned 32 bits each)."""

    spelled: bytes
    ends: bytes
    names: dict[int, str]
    """Entries that add nothing to a text, such as the end-of-text token."""


class Lexicon(msgspec.Struct, frozen=True):
    """What must be known of a model's tokens to keep its output to a grammar."""

    spellings: Spellings
    end_ids: tuple[int, ...]


class Vocabulary(msgspec.Struct, frozen=True, tag=True):
    """What may be known of a tokenizer once and for all."""

    spellings: Spellings
    start_id: int | None
    end_of_text_ids: tuple[int, ...]
    """As the model's files name them."""
    has_template: bool


class Conventions(msgspec.Struct, frozen=True, tag=True):
    """Of a chat template."""

    turn_ends: tuple[int, ...] = ()
    """Tokens that end a turn."""
    source: str = ""
    """The template itself, to look for what its family of models has in common."""
    takes_tools: bool = False
    """Definitions, calls and results."""
    takes_several_calls: bool = True
    """In one message; without tools, the plain words take them."""
    takes_system: bool = True


class Ids(msgspec.Struct, frozen=True, tag=True):
    data: bytes
    """Unsigned 32 bits each."""
    cut: bool = False
    """There are more."""


class Text(msgspec.Struct, frozen=True, tag=True):
    text: str


class Failed(msgspec.Struct, frozen=True, tag=True):
    kind: Literal["fault", "memory", "size", "refused", "lost", "template"]
    """An exception; too much memory; too long an output; the template refuses the messages; it leaves one out; it can
    never be used."""
    reason: str


Reply = Done | Vocabulary | Conventions | Ids | Text | Failed


class Description(msgspec.Struct, frozen=True):
    """A tokenizer as the library reads it, in a form that needs no library to be read again."""

    tokenizer_json: bytes
    begin_id: int | None
    named_tokens: dict[str, Any]
    """What templates call by name: `bos_token`, ..."""
    chat_templates: dict[str, str]
    """By name; the usual one is `default`."""
