"""What a body of OpenAI's Responses says: its fields, and the conversation in them. Knows no routes and no tokens."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field

from muster.api.chat_fields import MAX_METADATA, thinking_variables
from muster.api.conversation import Conversation, GenerationOptions, ToolChoice
from muster.api.fields import GenerationFields, RefusableFields, Strict, at_most, check_token_count, check_unicode
from muster.api.responses.items import MAX_ITEMS, read_input
from muster.api.serving import Serving
from muster.api.structured import AnswerForm, structure_of_format
from muster.api.tool_fields import read_function, read_tool_choice, read_tools
from muster.errors import InvalidRequest, Unsupported
from muster.text.calls import Message, Tool


class Reasoning(Strict):
    effort: str | None = Field(default=None, description="Handed to the chat template; `none` switches thinking off.")
    summary: Any = None
    generate_summary: Any = None
    encrypted_content: Any = None

    without_effect: ClassVar[frozenset[str]] = frozenset({"summary", "generate_summary", "encrypted_content"})


class TextOptions(Strict):
    format: Any = Field(default=None, description="`text`, `json_object`, or `json_schema` with name and schema.")
    verbosity: str | None = None

    without_effect: ClassVar[frozenset[str]] = frozenset({"verbosity"})


class ResponseStreamOptions(Strict):
    include_obfuscation: bool | None = None

    without_effect: ClassVar[frozenset[str]] = frozenset({"include_obfuscation"})


class ResponsesRequest(RefusableFields):
    model: str | None = None
    input: str | Annotated[list[Any], at_most(MAX_ITEMS, "input")] = Field(
        description="A text, or items: messages, function calls and their outputs, reasoning."
    )
    instructions: str | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    tools: Any = Field(default=None, description="Tools of type `function`. This server calls none itself.")
    tool_choice: Any = Field(default=None, description="`none`, `auto`, `required`, or one function by name.")
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    store: bool | None = Field(default=None, description="Kept where the operator lets answers be stored.")
    previous_response_id: str | None = Field(default=None, description="Of an answer that was stored.")
    metadata: Annotated[dict[str, str] | None, at_most(MAX_METADATA, "metadata")] = Field(
        default=None, description="Said again in the answer."
    )
    truncation: str | None = None
    background: bool | None = None
    conversation: Any = None
    prompt: Any = None
    top_logprobs: int | None = None
    max_tool_calls: int | None = None
    include: Any = None
    context_management: Any = None
    moderation: Any = None
    prompt_cache_key: str | None = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    user: str | None = None

    unsupported: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "background": (False,),
        "conversation": (),
        "prompt": (),
        "top_logprobs": (0,),
        "truncation": ("disabled",),
    }
    without_effect: ClassVar[frozenset[str]] = frozenset(
        {
            "context_management",
            "include",
            "max_tool_calls",
            "moderation",
            "prompt_cache_key",
            "prompt_cache_options",
            "prompt_cache_retention",
            "safety_identifier",
            "service_tier",
            "user",
        }
    )

    def read(self, before: Sequence[Message]) -> Conversation:
        """All that is said, checked. `before` is what was said up to the answer that this one follows."""
        tools = read_tools(self.tools, read=_read_tool)
        told = (
            () if self.instructions is None else (Message("system", check_unicode(self.instructions, "instructions")),)
        )
        return Conversation(
            messages=(*told, *before, *read_input(self.input)),
            tools=tools,
            tool_choice=self._choice(bool(tools)),
            parallel_tool_calls=self.parallel_tool_calls is not False,
            variables=thinking_variables(self.reasoning.effort if self.reasoning else None),
            parameter="input",
        )

    @property
    def structure(self) -> AnswerForm | None:
        """What the answer must be."""
        return structure_of_format(self.text.format if self.text else None, "text.format")

    def options(self, serving: Serving) -> GenerationOptions:
        """How to answer, checked."""
        wanted = check_token_count(self.max_output_tokens, "max_output_tokens")
        fields = GenerationFields(temperature=self.temperature, top_p=self.top_p)
        limit = serving.backend.max_context if wanted is None else wanted
        return GenerationOptions(
            sampling=fields.sampling(limit, None, serving.backend.vocab_size),
            max_tokens=wanted,
            max_tokens_parameter="max_output_tokens",
        )

    def _choice(self, has_tools: bool) -> ToolChoice:
        choice = self.tool_choice
        if isinstance(choice, dict) and choice.get("type") == "function":
            choice = {"type": "function", "function": choice}
        return read_tool_choice(choice, has_tools)


def _read_tool(entry: Any, path: str) -> Tool:
    """In their flat form: a function's fields beside its type."""
    if not isinstance(entry, dict):
        raise InvalidRequest("A tool is not an object; send {'type': 'function', 'name': ...}.", path)
    if entry.get("type") != "function":
        raise Unsupported(
            "This server calls no tools itself, so every tool must be of type 'function'; leave the others out.",
            f"{path}.type",
        )
    return read_function(entry, path)
