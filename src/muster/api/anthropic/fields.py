"""What a body of Anthropic's Messages says: its fields, and the conversation in them. Knows no routes and no tokens."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field

from muster.api.chat_fields import Variable, count_pieces, thinking_variables
from muster.api.conversation import Conversation, GenerationOptions, ToolChoice
from muster.api.fields import GenerationFields, RefusableFields, Strict, check_token_count, check_unicode
from muster.api.serving import Serving
from muster.api.structured import AnswerForm, structure_of_format
from muster.api.tool_fields import check_call, read_function, read_tools
from muster.errors import InvalidRequest, Unsupported
from muster.text.calls import Ending, Message, Tool, ToolCall

_ROLES = ("user", "assistant", "system")
_MODES = {"auto": "auto", "any": "required", "tool": "required", "none": "none"}


class ContentBlock(Strict):
    """A part of a message. Which of the fields there are depends on its type."""

    type: str
    text: str | None = None
    thinking: str | None = None
    signature: str | None = Field(default=None, description="Accepted; reasoning is not signed here.")
    id: str | None = None
    name: str | None = None
    input: Any = Field(default=None, description="Of a call: the arguments, an object.")
    tool_use_id: str | None = None
    content: Any = Field(default=None, description="Of a tool's result: text, or text blocks.")
    is_error: bool | None = Field(default=None, description="Accepted; the result itself says so.")
    source: Any = Field(default=None, description="Of images and documents, which are refused by their type.")
    data: Any = None
    citations: Any = None
    cache_control: Any = Field(default=None, description="Accepted; prompts share what they can anyway.")

    without_effect: ClassVar[frozenset[str]] = frozenset(
        {"signature", "is_error", "data", "citations", "cache_control"}
    )


class InputMessage(Strict):
    role: str
    content: str | Annotated[list[ContentBlock], Field(fail_fast=True)]


class CountRequest(RefusableFields):
    model: str | None = None
    messages: Annotated[list[InputMessage], Field(fail_fast=True), BeforeValidator(count_pieces)]
    system: str | Annotated[list[ContentBlock], Field(fail_fast=True)] | None = None
    tools: Any = Field(default=None, description="Tools with an `input_schema`. This server calls none itself.")
    tool_choice: Any = Field(default=None, description="`auto`, `any`, `tool` with a name, or `none`.")
    thinking: Any = Field(default=None, description="`disabled` switches thinking off where the chat template can.")
    output_config: Any = Field(
        default=None, description="`effort` is handed to the chat template; `format` may be `json_schema`."
    )
    cache_control: Any = None
    mcp_servers: Any = None
    context_management: Any = None

    unsupported: ClassVar[Mapping[str, tuple[object, ...]]] = {"mcp_servers": ([],)}
    without_effect: ClassVar[frozenset[str]] = frozenset({"cache_control", "context_management"})

    @property
    def conversation(self) -> Conversation:
        """All that is said, checked."""
        tools = read_tools(self.tools, read=_read_tool)
        choice, parallel = read_tool_choice(self.tool_choice, bool(tools))
        system = [] if self.system is None else [Message("system", _texts(self.system, "system"))]
        messages = [part for i, one in enumerate(self.messages) for part in _read_message(one, f"messages[{i}]")]
        is_begun = bool(messages) and messages[-1].role == "assistant"
        return Conversation(
            messages=(*system, *messages),
            tools=tools,
            tool_choice=choice,
            parallel_tool_calls=parallel,
            variables=self._variables,
            ending=Ending.INSIDE_LAST if is_begun and not messages[-1].tool_calls else Ending.ASSISTANT_BEGINS,
        )

    @property
    def structure(self) -> AnswerForm | None:
        """What the answer must be."""
        return structure_of_format(self._config.get("format"), "output_config.format")

    @property
    def _config(self) -> Mapping[str, Any]:
        return self.output_config if isinstance(self.output_config, dict) else {}

    @property
    def _variables(self) -> dict[str, Variable]:
        effort = self._config.get("effort")
        if effort is not None and not isinstance(effort, str):
            raise InvalidRequest("output_config.effort is not text; send low, medium or high.", "output_config.effort")
        off = isinstance(self.thinking, dict) and self.thinking.get("type") == "disabled"
        return thinking_variables("none" if off else effort)


class MessagesRequest(CountRequest):
    max_tokens: int | None = Field(default=None, description="Left out: all that the context has room for.")
    stop_sequences: Annotated[list[str], Field(fail_fast=True)] | None = None
    stream: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    metadata: Any = None
    service_tier: str | None = None
    container: Any = None
    inference_geo: Any = None

    unsupported: ClassVar[Mapping[str, tuple[object, ...]]] = {"container": ()}
    without_effect: ClassVar[frozenset[str]] = frozenset({"metadata", "service_tier", "inference_geo"})

    def options(self, serving: Serving) -> GenerationOptions:
        """How to answer, checked."""
        wanted = check_token_count(self.max_tokens, "max_tokens")
        fields = GenerationFields(
            temperature=self.temperature, top_p=self.top_p, top_k=self.top_k, stop=self.stop_sequences
        )
        limit = serving.backend.max_context if wanted is None else wanted
        return GenerationOptions(
            sampling=fields.sampling(limit, None, serving.backend.vocab_size), stops=fields.stops, max_tokens=wanted
        )


def _read_tool(entry: Any, path: str) -> Tool:
    if not isinstance(entry, dict):
        raise InvalidRequest("A tool is not an object; send its name and input_schema.", path)
    if entry.get("type") not in (None, "custom"):
        raise Unsupported(
            f"This server has no tools of its own, such as '{str(entry['type'])[:50]}'; describe yours by an "
            "input_schema, or leave it out.",
            f"{path}.type",
        )
    return read_function(
        {
            "name": entry.get("name"),
            "description": entry.get("description"),
            "parameters": entry.get("input_schema"),
            "strict": entry.get("strict"),
        },
        path,
    )


def read_tool_choice(written: Any, has_tools: bool) -> tuple[ToolChoice, bool]:
    """The choice, and whether several calls at once are welcome."""
    if written is None:
        return ToolChoice("auto" if has_tools else "none"), True
    kind = written.get("type") if isinstance(written, dict) else None
    mode = _MODES.get(kind) if isinstance(kind, str) else None
    if mode is None:
        raise InvalidRequest("tool_choice is of none of the types auto, any, tool and none; choose one.", "tool_choice")
    name = written.get("name") if kind == "tool" else None
    if kind == "tool" and not isinstance(name, str):
        raise InvalidRequest("tool_choice names no tool; add its name.", "tool_choice.name")
    return ToolChoice(mode, name), not written.get("disable_parallel_tool_use")  # type: ignore[arg-type]


def _read_message(message: InputMessage, path: str) -> Iterator[Message]:
    """The results of tools are messages of their own."""
    if message.role not in _ROLES:
        raise InvalidRequest(f"The role is none of {', '.join(_ROLES)}; use one of them.", f"{path}.role")
    if isinstance(message.content, str):
        yield Message(message.role, check_unicode(message.content, f"{path}.content"))
        return
    if message.role == "assistant":
        yield _read_answer(message.content, f"{path}.content")
        return
    texts: list[str] = []
    for i, block in enumerate(message.content):
        here = f"{path}.content[{i}]"
        if block.type == "tool_result":
            if texts:
                yield Message(message.role, "\n\n".join(texts))
                texts = []
            yield _read_result(block, here)
        else:
            texts.append(_text(block, here))
    if texts:
        yield Message(message.role, "\n\n".join(texts))


def _read_answer(blocks: Sequence[ContentBlock], path: str) -> Message:
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[ToolCall] = []
    for i, block in enumerate(blocks):
        here = f"{path}[{i}]"
        if block.type == "tool_use":
            call = ToolCall(_named(block.id, f"{here}.id"), block.name or "", json.dumps(block.input or {}))
            calls.append(check_call(call, here))
        elif block.type == "thinking":
            thoughts.append(check_unicode(block.thinking or "", f"{here}.thinking"))
        elif block.type != "redacted_thinking":
            texts.append(_text(block, here))
    reasoning = "".join(thoughts) or None
    return Message("assistant", "".join(texts), tool_calls=tuple(calls), reasoning=reasoning)


def _read_result(block: ContentBlock, path: str) -> Message:
    content = block.content
    if content is None:
        content = ""
    if isinstance(content, list):
        parts = [_part(part, f"{path}.content[{i}]") for i, part in enumerate(content)]
        content = "\n\n".join(_text(part, f"{path}.content[{i}]") for i, part in enumerate(parts))
    if not isinstance(content, str):
        raise InvalidRequest("A tool's result is neither text nor a list of text blocks; correct it.", path)
    id = _named(block.tool_use_id, f"{path}.tool_use_id")
    return Message("tool", check_unicode(content, f"{path}.content"), tool_call_id=id)


def _part(written: Any, path: str) -> ContentBlock:
    if not isinstance(written, dict) or not isinstance(written.get("type"), str):
        raise InvalidRequest("A block of a tool's result has no type; add it.", path)
    text = written.get("text")
    return ContentBlock(type=written["type"], text=text if isinstance(text, str) else None)


def _named(id: str | None, path: str) -> str:
    if not id:
        raise InvalidRequest("A block does not say which call it is of; add that.", path)
    return check_unicode(id, path)


def _texts(content: str | Sequence[ContentBlock], path: str) -> str:
    if isinstance(content, str):
        return check_unicode(content, path)
    return "\n\n".join(_text(block, f"{path}[{i}]") for i, block in enumerate(content))


def _text(block: ContentBlock, path: str) -> str:
    if block.type != "text":
        raise Unsupported(
            f"This model reads text only, not a block of type '{block.type[:50]}'; send text.", f"{path}.type"
        )
    if block.text is None:
        raise InvalidRequest("A text block has no text; add it.", f"{path}.text")
    return check_unicode(block.text, f"{path}.text")
