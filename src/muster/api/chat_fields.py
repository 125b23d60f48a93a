"""What a chat request says: its fields, and the conversation in them. Knows no routes and no tokens."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field

from muster.api.conversation import Conversation
from muster.api.fields import GenerationFields, Strict, at_most, check_logprobs, check_token_count, check_unicode
from muster.api.structured import StructuredFields
from muster.api.tool_fields import (
    read_call,
    read_calls,
    read_function_call,
    read_functions,
    read_tool_choice,
    read_tools,
)
from muster.errors import InvalidRequest, Unsupported
from muster.text.calls import Ending, Message, ToolCall

MAX_PIECES = 10_000
"""Messages and content parts of one request together."""
MAX_METADATA = 64
MAX_VARIABLES = 16
MAX_VARIABLE_CHARACTERS = 10_000

Variable = bool | int | float | str | None
_FIXED_VARIABLES = ("messages", "tools", "documents", "add_generation_prompt")

_ROLES = ("system", "developer", "user", "assistant", "tool", "function")


def count_pieces(messages: Any) -> Any:
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

    unsupported: ClassVar[Mapping[str, tuple[object, ...]]] = {"file": (), "image_url": (), "input_audio": ()}
    without_effect: ClassVar[frozenset[str]] = frozenset({"refusal"})


class ChatMessage(Strict):
    role: str
    content: str | Annotated[list[ContentPart], Field(fail_fast=True)] | None = None
    name: str | None = None
    tool_calls: Any = Field(default=None, description="An assistant's calls, as an answer has them.")
    tool_call_id: str | None = None
    function_call: Any = Field(default=None, description="The older form of `tool_calls`.")
    refusal: Any = None
    audio: Any = None
    annotations: Any = None
    reasoning_content: Any = Field(default=None, description="What an assistant thought; templates may leave it out.")

    unsupported: ClassVar[Mapping[str, tuple[object, ...]]] = {"audio": ()}
    without_effect: ClassVar[frozenset[str]] = frozenset({"annotations", "refusal"})


class ChatRequest(GenerationFields, StructuredFields):
    messages: Annotated[list[ChatMessage], Field(fail_fast=True), BeforeValidator(count_pieces)]
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
    tools: Any = Field(default=None, description="Functions that the answer may call, as OpenAI describes them.")
    tool_choice: Any = Field(default=None, description="`none`, `auto`, `required`, or one function by name.")
    parallel_tool_calls: bool | None = Field(default=None, description="False: at most one call in an answer.")
    functions: Any = Field(default=None, description="The older form of `tools`.")
    function_call: Any = Field(default=None, description="The older form of `tool_choice`.")
    add_generation_prompt: bool | None = Field(
        default=None, description="False: the prompt ends after the last message, and no assistant's turn begins."
    )
    continue_final_message: bool | None = Field(
        default=None, description="The answer goes on where the last message, an assistant's, ends."
    )

    audio: Any = None
    modalities: Any = None
    moderation: Any = None
    prediction: Any = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    reasoning_effort: str | None = Field(
        default=None, description="Handed to the chat template, which may use it; `none` switches thinking off there."
    )
    store: Any = Field(default=None, description="Accepted; nothing is kept.")
    verbosity: Any = None
    web_search_options: Any = None

    unsupported: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "add_special_tokens": (False,),
        "audio": (),
        "modalities": (["text"],),
        "verbosity": ("medium",),
        "web_search_options": (),
    }
    without_effect: ClassVar[frozenset[str]] = frozenset(
        {
            "metadata",
            "moderation",
            "prediction",
            "prompt_cache_key",
            "prompt_cache_options",
            "prompt_cache_retention",
            "safety_identifier",
            "store",
        }
    )

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
            if self.top_logprobs:
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
        return thinking_variables(self.reasoning_effort) | given

    @property
    def conversation(self) -> Conversation:
        """All that is said, checked."""
        if self.tools and self.functions:
            raise InvalidRequest("functions is the older form of tools; send one of them.", "functions")
        older = not self.tools and self.functions is not None
        tools = read_functions(self.functions) if older else read_tools(self.tools)
        choice = read_function_call(self.function_call, bool(tools)) if older else None
        return Conversation(
            messages=read_messages(self.messages),
            tools=tools,
            tool_choice=choice or read_tool_choice(self.tool_choice, bool(tools)),
            parallel_tool_calls=self.parallel_tool_calls is not False and not older,
            variables=self.template_variables,
            ending=self._ending,
        )

    @property
    def answers_in_older_form(self) -> bool:
        """`function_call`, and not `tool_calls`."""
        return not self.tools and bool(self.functions)

    @property
    def _ending(self) -> Ending:
        if self.continue_final_message and self.add_generation_prompt:
            raise InvalidRequest(
                "add_generation_prompt begins a message and continue_final_message goes on with one; choose.",
                "continue_final_message",
            )
        if self.continue_final_message:
            return Ending.INSIDE_LAST
        return Ending.AFTER_LAST if self.add_generation_prompt is False else Ending.ASSISTANT_BEGINS


def thinking_variables(effort: str | None) -> dict[str, Variable]:
    """What templates call it. One that has no use for a variable does not look at it."""
    if effort is None:
        return {}
    effort = check_unicode(effort, "reasoning_effort")[:100]
    return {"enable_thinking": False, "thinking": False} if effort == "none" else {"reasoning_effort": effort}


def read_messages(messages: Sequence[ChatMessage]) -> tuple[Message, ...]:
    """Checked messages of plain text."""
    if not messages:
        raise InvalidRequest("There are no messages; send at least one.", "messages")
    return tuple(_read_message(message, f"messages[{i}]") for i, message in enumerate(messages))


def _read_message(message: ChatMessage, path: str) -> Message:
    if message.audio:
        raise Unsupported("This server does not do audio; send text.", f"{path}.audio")
    if message.role not in _ROLES:
        raise InvalidRequest(f"The role is none of {', '.join(_ROLES)}; use one of them.", f"{path}.role")
    name = None if message.name is None else check_unicode(message.name, f"{path}.name")
    calls = _read_calls(message, path)
    if calls and message.role != "assistant":
        raise InvalidRequest("Only an assistant's message has tool calls; leave them out.", f"{path}.tool_calls")
    call_id = message.tool_call_id if message.role == "tool" else name if message.role == "function" else None
    if call_id is None and message.role in ("tool", "function"):
        missing = "tool_call_id" if message.role == "tool" else "name"
        raise InvalidRequest("The result of a tool does not say of which call it is; add that.", f"{path}.{missing}")
    reasoning = message.reasoning_content if isinstance(message.reasoning_content, str) else None
    return Message(
        "tool" if message.role == "function" else message.role,
        _read_content(message.content, f"{path}.content", may_be_absent=message.role == "assistant"),
        name,
        calls,
        None if call_id is None else check_unicode(call_id, f"{path}.tool_call_id"),
        None if reasoning is None else check_unicode(reasoning, f"{path}.reasoning_content"),
    )


def _read_calls(message: ChatMessage, path: str) -> tuple[ToolCall, ...]:
    if not message.function_call:
        return read_calls(message.tool_calls, f"{path}.tool_calls")
    if not isinstance(message.function_call, dict) or message.tool_calls:
        raise InvalidRequest("function_call is one object, in place of tool_calls; correct it.", path)
    name = message.function_call.get("name")  # its result names the function, and nothing else
    return (read_call(str(name), message.function_call, f"{path}.function_call"),)


def _read_content(content: str | list[ContentPart] | None, path: str, may_be_absent: bool = False) -> str:
    if content is None and may_be_absent:
        return ""
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
