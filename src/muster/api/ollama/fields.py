"""What a body of Ollama's API says: its fields and options, and the conversation in them. Knows no routes."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from muster.api.chat_fields import count_pieces, thinking_variables
from muster.api.conversation import Conversation, GenerationOptions, ToolChoice
from muster.api.fields import GenerationFields, RefusableFields, check_token_count, check_unicode
from muster.api.serving import Serving
from muster.api.structured import AnswerForm, structure_of_schema
from muster.api.tool_fields import check_call, read_tools
from muster.errors import InvalidRequest
from muster.text.calls import Message, ToolCall

_ROLES = ("system", "user", "assistant", "tool")


class OllamaMessage(RefusableFields):
    role: str
    content: str | None = None
    thinking: str | None = None
    tool_calls: Any = Field(default=None, description="An assistant's calls, as an answer has them.")
    tool_name: str | None = Field(default=None, description="Of a tool's result: which tool it is of.")
    tool_call_id: str | None = None
    images: Any = None

    unsupported: ClassVar[Mapping[str, tuple[object, ...]]] = {"images": ([],)}


class OllamaOptions(RefusableFields):
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    seed: int | None = None
    num_predict: int | None = Field(default=None, description="-1 is all that the context has room for.")
    stop: str | Annotated[list[str], Field(fail_fast=True)] | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    num_ctx: int | None = None
    num_keep: int | None = None
    repeat_last_n: int | None = None
    num_batch: int | None = None
    num_gpu: int | None = None
    num_thread: int | None = None
    use_mmap: bool | None = None
    typical_p: Any = None
    mirostat: Any = None

    unsupported: ClassVar[Mapping[str, tuple[object, ...]]] = {"typical_p": (0, 1), "mirostat": (0,)}
    without_effect: ClassVar[frozenset[str]] = frozenset(
        {"num_ctx", "num_keep", "repeat_last_n", "num_batch", "num_gpu", "num_thread", "use_mmap"}
    )


class OllamaRequest(RefusableFields):
    model: str
    stream: bool | None = Field(default=None, description="True where it is left out.")
    options: OllamaOptions | None = None
    think: bool | Literal["low", "medium", "high"] | None = None
    format: Any = Field(default=None, description="`json`, or a schema.")
    keep_alive: Any = None

    without_effect: ClassVar[frozenset[str]] = frozenset({"keep_alive"})

    def how(self, serving: Serving) -> GenerationOptions:
        """How to answer, checked."""
        written = self.options or OllamaOptions()
        written.refuse_unsupported()
        wanted = check_token_count(written.num_predict, "num_predict")
        fields = GenerationFields(
            temperature=written.temperature,
            top_k=written.top_k,
            top_p=written.top_p,
            min_p=written.min_p,
            seed=written.seed,
            stop=written.stop,
            repetition_penalty=written.repeat_penalty,
            presence_penalty=written.presence_penalty,
            frequency_penalty=written.frequency_penalty,
        )
        limit = serving.backend.max_context if wanted is None else wanted
        return GenerationOptions(
            sampling=fields.sampling(limit, None, serving.backend.vocab_size),
            stops=fields.stops,
            max_tokens=wanted,
            max_tokens_parameter="num_predict",
        )

    @property
    def structure(self) -> AnswerForm | None:
        """What the answer must be."""
        return structure_of_schema(self.format, "format") if self.format else None

    @property
    def variables(self) -> Mapping[str, Any]:
        if isinstance(self.think, str):
            return thinking_variables(self.think)
        return {} if self.think is None else {"enable_thinking": self.think, "thinking": self.think}


class OllamaChatRequest(OllamaRequest):
    messages: Annotated[list[OllamaMessage], Field(fail_fast=True), BeforeValidator(count_pieces)]
    tools: Any = Field(default=None, description="Functions that the answer may call.")

    @property
    def conversation(self) -> Conversation:
        tools = read_tools(self.tools)
        return Conversation(
            messages=tuple(_read_messages(self.messages)),
            tools=tools,
            tool_choice=ToolChoice("auto" if tools else "none"),
            variables=self.variables,
        )


class OllamaGenerateRequest(OllamaRequest):
    prompt: str = ""
    system: str | None = None
    raw: bool | None = Field(default=None, description="The prompt goes to the model as it is, without a template.")
    suffix: Any = None
    template: Any = None
    context: Any = None
    images: Any = None

    unsupported: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "suffix": ("",),
        "template": ("",),
        "context": ([],),
        "images": ([],),
    }

    @property
    def conversation(self) -> Conversation:
        system = (Message("system", check_unicode(self.system, "system")),) if self.system else ()
        said = (*system, Message("user", check_unicode(self.prompt, "prompt")))
        return Conversation(messages=said, variables=self.variables, parameter="prompt")


def _read_messages(messages: list[OllamaMessage]) -> list[Message]:
    """Calls have no ids here: the results of tools come in the order of the calls."""
    read: list[Message] = []
    waiting: list[str] = []
    for i, message in enumerate(messages):
        path = f"messages[{i}]"
        message.refuse_unsupported()
        if message.role not in _ROLES:
            raise InvalidRequest(f"The role is none of {', '.join(_ROLES)}; use one of them.", f"{path}.role")
        calls = _read_calls(message.tool_calls, path, i)
        waiting += [call.id for call in calls]
        call_id = None
        if message.role == "tool":
            if not waiting:
                raise InvalidRequest("A tool's result answers no call; send the call before it.", path)
            call_id = waiting.pop(0)
        content, thought = check_unicode(message.content or "", path), message.thinking
        thought = None if thought is None else check_unicode(thought, path)
        read.append(Message(message.role, content, tool_calls=calls, tool_call_id=call_id, reasoning=thought))
    return read


def _read_calls(written: Any, path: str, message: int) -> tuple[ToolCall, ...]:
    if not written:
        return ()
    if not isinstance(written, list) or len(written) > 128:
        raise InvalidRequest("tool_calls is no list of at most 128 calls; correct it.", f"{path}.tool_calls")
    calls = []
    for i, entry in enumerate(written):
        here = f"{path}.tool_calls[{i}]"
        function = entry.get("function") if isinstance(entry, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise InvalidRequest("A tool call has no function with a name; add it.", here)
        call = ToolCall(f"call_{message}_{i}", function["name"], json.dumps(function.get("arguments") or {}))
        calls.append(check_call(call, here))
    return tuple(calls)
