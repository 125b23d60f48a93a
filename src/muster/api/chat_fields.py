"""What a chat request says: its fields, and its messages as plain text. Knows no routes and no tokens."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field

from muster.api.fields import GenerationFields, Strict, at_most, check_logprobs, check_token_count, check_unicode
from muster.errors import InvalidRequest, Unsupported
from muster.text.chat import Message

MAX_PIECES = 10_000
"""Messages and content parts of one request together."""
MAX_METADATA = 64
MAX_VARIABLES = 16
MAX_VARIABLE_CHARACTERS = 10_000

Variable = bool | int | float | str | None
_FIXED_VARIABLES = ("messages", "tools", "documents", "add_generation_prompt")

_ROLES = ("system", "developer", "user", "assistant")


def _count_pieces(messages: Any) -> Any:
    """Refuse a request of very many tiny pieces before each of them is looked at."""
    if isinstance(messages, list):
        contents = [message.get("content") for message in messages if isinstance(message, dict)]
        pieces = len(messages) + sum(len(content) for content in contents if isinstance(content, list))
        if pieces > MAX_PIECES:
            raise InvalidRequest(f"messages holds more than {MAX_PIECES} messages and parts; join some.", "messages")
    return messages


class ContentPart(Strict):
    type: str
    text: str | None = None
    image_url: Any = None
    input_audio: Any = None
    file: Any = None
    refusal: Any = None


class ChatMessage(Strict):
    role: str
    content: str | Annotated[list[ContentPart], Field(fail_fast=True)] | None = None
    name: str | None = None
    tool_calls: Any = None
    tool_call_id: Any = None
    function_call: Any = None
    refusal: Any = None
    audio: Any = None
    annotations: Any = None
    reasoning_content: Any = None


class ChatRequest(GenerationFields):
    messages: Annotated[list[ChatMessage], Field(fail_fast=True), BeforeValidator(_count_pieces)]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    metadata: Annotated[dict[str, str] | None, at_most(MAX_METADATA, "metadata")] = Field(
        default=None, description="Accepted; has no effect and is not kept."
    )
    safety_identifier: str | None = Field(default=None, description="Accepted; has no effect and is not kept.")
    prompt_cache_key: str | None = Field(default=None, description="Accepted; prompts share what they can anyway.")
    chat_template_kwargs: Annotated[dict[str, Variable] | None, at_most(MAX_VARIABLES, "chat_template_kwargs")] = Field(
        default=None, description='Variables of the model\'s chat template, such as {"enable_thinking": false}.'
    )
    parallel_tool_calls: bool | None = Field(default=None, description="Accepted; there are no tools to call.")

    audio: Any = None
    function_call: Any = None
    functions: Any = None
    modalities: Any = None
    moderation: Any = None
    prediction: Any = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    reasoning_effort: Any = None
    response_format: Any = None
    store: Any = None
    tool_choice: Any = None
    tools: Any = None
    verbosity: Any = None
    web_search_options: Any = None

    unsupported: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "audio": (),
        "function_call": ("none", "auto"),
        "functions": ([],),
        "modalities": (["text"],),
        "moderation": (),
        "prediction": (),
        "prompt_cache_options": (),
        "prompt_cache_retention": (),
        "reasoning_effort": ("none",),
        "response_format": ({"type": "text"},),
        "store": (False,),
        "tool_choice": ("none", "auto"),
        "tools": ([],),
        "verbosity": (),
        "web_search_options": (),
    }

    @property
    def wanted_tokens(self) -> tuple[int | None, str]:
        """The number of tokens asked for, and the field that asks."""
        new, old = self.max_completion_tokens, self.max_tokens
        if new is not None and old is not None and new != old:
            raise InvalidRequest("max_tokens and max_completion_tokens contradict each other; send one.", "max_tokens")
        value, parameter = (old, "max_tokens") if new is None else (new, "max_completion_tokens")
        return check_token_count(value, parameter), parameter

    @property
    def scores(self) -> int | None:
        """How many alternatives to score besides the chosen token; None for no log probabilities."""
        if not self.logprobs:
            if self.top_logprobs is not None:
                raise InvalidRequest("top_logprobs goes with logprobs: true; send both or neither.", "top_logprobs")
            return None
        return check_logprobs(self.top_logprobs or 0, "top_logprobs")

    @property
    def template_variables(self) -> dict[str, Variable]:
        """The checked `chat_template_kwargs`."""
        given = self.chat_template_kwargs or {}
        for name, value in given.items():
            path = check_unicode(f"chat_template_kwargs.{name}", "chat_template_kwargs")[:100]
            if name in _FIXED_VARIABLES:
                raise Unsupported(f"The chat template's '{name}' is not for requests to set; leave it out.", path)
            if isinstance(value, str) and len(check_unicode(value, path)) > MAX_VARIABLE_CHARACTERS:
                raise InvalidRequest(
                    f"A variable of the chat template has more than {MAX_VARIABLE_CHARACTERS} characters; shorten it.",
                    path,
                )
        return given


def read_messages(messages: Sequence[ChatMessage]) -> list[Message]:
    """Checked messages of plain text."""
    if not messages:
        raise InvalidRequest("There are no messages; send at least one.", "messages")
    return [_read_message(message, f"messages[{i}]") for i, message in enumerate(messages)]


def _read_message(message: ChatMessage, path: str) -> Message:
    if message.role in ("tool", "function") or message.tool_calls or message.function_call:
        raise Unsupported("This server does not do tools; leave tool calls and their results out.", path)
    if message.audio:
        raise Unsupported("This server does not do audio; send text.", f"{path}.audio")
    if message.role not in _ROLES:
        raise InvalidRequest(f"The role is none of {', '.join(_ROLES)}; use one of them.", f"{path}.role")
    name = None if message.name is None else check_unicode(message.name, f"{path}.name")
    return Message(message.role, _read_content(message.content, f"{path}.content"), name)


def _read_content(content: str | list[ContentPart] | None, path: str) -> str:
    if content is None:
        raise InvalidRequest("A message has no content; add it.", path)
    if isinstance(content, str):
        return check_unicode(content, path)
    texts = []
    for i, part in enumerate(content):
        if part.type != "text":
            raise Unsupported(
                f"This model reads text only, not content of type '{part.type[:50]}'; send text.", f"{path}[{i}].type"
            )
        if part.text is None:
            raise InvalidRequest("A text part has no text; add it.", f"{path}[{i}].text")
        texts.append(check_unicode(part.text, f"{path}[{i}].text"))
    return "".join(texts)
